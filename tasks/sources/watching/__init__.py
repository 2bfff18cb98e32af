"""Corpora: looking for new data, a registry of dated slices, drift of what arrives."""
