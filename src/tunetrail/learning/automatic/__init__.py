"""Automatic settings: the batch size and the learning rate that take the place of `auto`."""
