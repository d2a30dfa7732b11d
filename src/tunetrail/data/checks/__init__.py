"""Checks of single rows and of a whole session, and their results; they repair nothing."""
