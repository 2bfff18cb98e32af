"""The recipe language: models, loading, checks, plans and fingerprints. Light: no machine learning here."""
