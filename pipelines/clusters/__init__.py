"""Recipes for clusters (docs/clusters.md), and what their scripts call."""
