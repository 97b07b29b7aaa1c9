"""Blind comparisons by people: a page that asks, and what its answers say."""
