"""MLflow's tracking store: runs, their metrics, artifacts and tags are written here."""
