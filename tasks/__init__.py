"""What runs in Perennial's pods: the recipe language, the store, the runner, the trainer and the stages."""
