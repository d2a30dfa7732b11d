"""The flow of rows: in chunks, possibly in other processes, through all steps of preparation and into files."""
