"""Nodes: the machines of a training, on each of which torchrun or srun has started the command."""
