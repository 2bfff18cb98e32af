"""One file an evaluation method."""
