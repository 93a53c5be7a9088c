"""The strategies: a registry of records, and one file per family."""

PLUGINS = "mmselect.strategies"
"""The group of entry points by which packages add strategies; here, as the registry is slow."""
