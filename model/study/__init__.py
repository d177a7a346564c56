"""The paper's comparisons at toy scale: ``python -m model.study --out runs/study``."""
