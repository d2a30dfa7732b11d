"""The data report: one HTML file and pictures of what became of a session's rows. Judges nothing."""
