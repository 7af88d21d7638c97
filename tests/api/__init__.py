"""Runs and comparisons from Python."""
