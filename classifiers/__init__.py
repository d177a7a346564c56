"""The two quality filters: labels, features, heads, thresholds."""
