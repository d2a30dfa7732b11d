"""The outside world: the database of sessions and the MLflow store."""
