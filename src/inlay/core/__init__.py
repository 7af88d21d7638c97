"""The mechanism that every method shares. No method is named in here.

A *method* (a frozen dataclass) places *deltas* at *host* modules; a *slot* in the host runs the active ones through two
hooks; an *adapter* is one attached method under a name. Read delta.py first, then slot.py and adapter.py.
"""
