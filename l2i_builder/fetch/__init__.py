"""From a URL to a body: guarded, bounded, polite."""
