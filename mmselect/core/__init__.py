"""The mathematics: arrays in, arrays out. No file, no pool, no console."""
