"""Embedding models: data, losses, Lightning module and learner."""
