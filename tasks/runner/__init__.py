"""Executes the steps of a plan: cache, inputs, the stage, outputs, record, exit code."""
