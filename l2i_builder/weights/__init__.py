"""Pretrained weights by name, pinned by digest."""
