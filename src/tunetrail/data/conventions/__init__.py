"""Conventions: which columns public data sets and applications use, and what a row becomes."""
