"""Rows in, rows out: preparation of samples with pandas, before any tensor exists."""
