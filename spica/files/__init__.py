"""Floor 2a: FITS, LDAC, external headers, WCS and manifests."""
