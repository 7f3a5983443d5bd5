"""Speed, memory and errors of the native chain beside the real AstrOmatic tools, on simulated exposures."""
