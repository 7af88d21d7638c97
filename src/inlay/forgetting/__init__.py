"""What a tuned model has lost of its base: measured on general text before and after a run, and held on to in it."""
