"""Measures of generated layered images, and the tables they end in."""
