"""Floor 2b: one TOML profile per camera, and what reads headers by it."""
