"""A run from plan to report: on Ray or inline, again, and its cost."""
