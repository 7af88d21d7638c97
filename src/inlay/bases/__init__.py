"""Base models: found, checked against their files, loaded, quantized, lent."""
