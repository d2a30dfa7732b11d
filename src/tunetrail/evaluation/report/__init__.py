"""The report of a training: its decision, curves, intervals, slices and examples on one page."""
