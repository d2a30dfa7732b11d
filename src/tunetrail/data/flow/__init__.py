"""The flow of rows: in chunks through all steps of preparation, and into files."""
