"""Feature engineering: lengths and hard negatives of the train side's rows."""
