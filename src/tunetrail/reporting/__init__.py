"""Reports for people: readable texts, charts in one style, and complete HTML pages."""
