"""Tensors: the models, their Lightning modules and data modules, and everything that trains."""
