"""Where weights come from: the catalog, GGUF files, models that write and translate."""
