"""Model versions: the registry, the gate before root, and the export to the model directory."""
