"""The sides that benchmarks/train.py compares, a file for each subject."""
