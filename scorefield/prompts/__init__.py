"""Prompts of a run: files that hold them, their embeddings on disk, and what a batch is told."""
