"""Training and encoding without padding: all sequences in one row, attention within each sequence."""
