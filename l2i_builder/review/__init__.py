"""The review app: people judge samples of a run, and their judgements are kept."""
