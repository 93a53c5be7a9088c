"""Drawing a batch: D² sampling over features or gradient embeddings."""
