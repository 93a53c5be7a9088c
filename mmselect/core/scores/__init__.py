"""What a sample is worth alone: entropies, divergences, contributions, alignment."""
