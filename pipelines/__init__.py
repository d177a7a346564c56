"""Recipes: each a whole job on one screen."""
