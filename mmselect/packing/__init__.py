"""A pool from the files people have: found by their extension, read in row blocks, or linked to."""
