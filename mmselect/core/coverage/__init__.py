"""Covering a pool: facility location, k-center, k-means."""
