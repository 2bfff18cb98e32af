"""The sides that benchmarks/evaluate.py compares, a file for each subject."""
