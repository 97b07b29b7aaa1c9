"""Measure what was made: a judge for prompt accuracy, and distances between feature distributions."""
