"""Publishing: a finished run's samples in even shards, with sums, indexes, sidecars, a card and Croissant metadata."""
