"""Image to soft mask."""
