"""Exporting: models in the forms of other programs, each compared with the original's outputs."""
