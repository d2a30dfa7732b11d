"""Training and encoding measured next to the peers: equal work, fresh processes, rounds in turn."""
