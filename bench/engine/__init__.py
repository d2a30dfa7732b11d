"""Training and encoding measured beside the peers: equal work, fresh processes, rounds in turn."""
