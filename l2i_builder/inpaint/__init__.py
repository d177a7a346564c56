"""Image and hole to background."""
