"""Reports for people: readable texts, charts in one style, and HTML pages that need no other file."""
