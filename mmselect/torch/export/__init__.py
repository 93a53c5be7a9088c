"""From a PyTorch model and a loader to a pool file."""
