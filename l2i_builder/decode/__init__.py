"""From a body to an upright sRGB square, in child processes."""
