"""One file a merge method."""
