"""Benchmarks: what the documents claim of speed and memory, measured again by `make bench`. No part of the package."""
