"""Comparisons: one task, several variants, the same start, seeds and budget, drawn side by side."""
