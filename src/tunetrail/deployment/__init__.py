"""Model versions: the registry, the gate in front of root, and the export to the model directory."""
