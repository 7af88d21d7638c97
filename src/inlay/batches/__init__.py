"""Batches and their losses: what rows become on their way through a model, whatever the task."""
