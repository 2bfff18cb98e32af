"""What of a model changes in training: everything, or an adapter."""
