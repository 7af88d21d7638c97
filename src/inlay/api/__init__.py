"""Runs and comparisons from Python. The command line calls these functions and nothing deeper."""
