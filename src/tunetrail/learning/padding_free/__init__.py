"""Trains and encodes without padding: all sequences in one row, attention within each."""
