"""Where steps run: one file a runtime."""
