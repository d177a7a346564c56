"""Input shards in, batches of decoded rows out."""
