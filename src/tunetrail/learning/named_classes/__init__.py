"""Named classes: Lightning's callbacks and loggers that a configuration may name."""
