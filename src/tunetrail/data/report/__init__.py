"""The data report: one HTML file with pictures of what became of a session's rows."""
