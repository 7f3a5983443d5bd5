"""Floor 2b: the local store of reference catalogues."""
