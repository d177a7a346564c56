"""Metadata in: which rows there are, and in which input shard."""
