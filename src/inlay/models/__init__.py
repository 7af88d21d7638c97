"""What is known of architectures: their parts, how they store weights, what they are told by."""
