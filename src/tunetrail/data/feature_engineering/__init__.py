"""Feature engineering: statistics, hard negatives and packing of rows. Knows vectors and lengths, no model."""
