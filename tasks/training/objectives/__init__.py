"""What the trainer can minimise: one file an objective."""
