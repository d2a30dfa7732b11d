"""Causal language models: data, Lightning module and learner."""
