"""One file a way of validating."""
