"""Ground floor: arrays in, arrays or frozen dataclasses out."""
