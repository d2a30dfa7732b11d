"""Scores: metrics, cross-validation, comparison with root, and their pictures."""
