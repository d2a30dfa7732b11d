"""Preflight: checks of model, rows and machine that take seconds, before a training begins."""
