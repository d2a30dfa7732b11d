"""Checks of rows, one by one and of a session as a whole, and the findings that follow. Repairs nothing."""
