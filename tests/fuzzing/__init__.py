"""A seeded fuzzer that knows how a pool is built: by HDF5's structures, and by their bytes."""
