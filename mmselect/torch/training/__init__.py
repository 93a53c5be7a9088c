"""Training pieces: heads, losses and prototypes, and the alignment of frozen features."""
