"""One file per evaluation method."""
