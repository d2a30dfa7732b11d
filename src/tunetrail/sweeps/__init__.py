"""Hydra plugins: what a multirun adds to a single run."""
