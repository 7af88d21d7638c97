"""Experiments over many runs: comparisons and rank analysis."""
