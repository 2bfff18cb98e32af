"""Intervals, tests and power: what a difference between two models on one set is worth."""
