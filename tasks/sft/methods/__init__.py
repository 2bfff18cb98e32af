"""One file a fine-tuning method."""
