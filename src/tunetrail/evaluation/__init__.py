"""Evaluation: scores, metrics, cross-validation, comparison with root, and their figures."""
