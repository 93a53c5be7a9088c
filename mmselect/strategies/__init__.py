"""The strategies: a registry of records, and one file per family."""
