"""Several methods on the same data, split and budget: their runs, what they come to, and what may be said of that."""
