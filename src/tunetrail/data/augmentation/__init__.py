"""Augmentation: extra rows made from rows of the train side. Never sees the other sides."""
