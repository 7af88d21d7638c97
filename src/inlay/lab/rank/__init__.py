"""The rank of what was learned: spectra of updates, what they share, and what is left of the score when they are cut.

spectrum.py     the singular value decomposition of an update, from its thin factors
ranks.py        how many directions a spectrum has, by six definitions
directions.py   subspaces compared: with the base's leading directions, with another run's; intruder dimensions
updates.py      every layer's update, of any adapter
sharing.py      a budget of parameters, shared out among directions
truncation.py   the update cut to fewer directions, as an adapter of its own
curve.py        the score of the cut adapters, measured
suggestion.py   a rank for each layer before anything is trained
analysis.py     `inlay rank`: all of it, in one result

Shape suffixes: O host outputs, I host inputs, R rank, K directions, N entries of a vector.
"""
