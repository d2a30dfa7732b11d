"""Training and encoding without padding: the tokens of all sequences in one row, attention within each sequence."""
