"""What the probes of a model version share: scores, short trainings, contrasted models, probe.json."""
