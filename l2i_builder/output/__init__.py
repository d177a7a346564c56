"""What a run leaves: shards, ledgers, manifests, and the proof that they are whole."""
