"""The two quality filters at work: features, heads, scores."""
