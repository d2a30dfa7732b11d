"""Preflight: seconds of checks on the very model, rows and machine of a training, before it begins."""
