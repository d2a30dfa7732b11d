"""Runs, roots and versions read back: through MLflow, or quicker from its SQLite file."""
