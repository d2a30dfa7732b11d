"""Benchmarks: what the documents claim of speed and memory, measured anew by `make bench`. No part of the package."""
