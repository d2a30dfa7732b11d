"""Twins: rows of a session that are equal or alike, found from sketches in bounded memory. Drops no row."""
