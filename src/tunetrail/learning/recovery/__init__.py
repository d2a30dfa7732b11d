"""Recovery: how a training survives a stop, a crash, and a loss that is not finite."""
