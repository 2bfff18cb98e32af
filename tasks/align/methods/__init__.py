"""One file an alignment method."""
