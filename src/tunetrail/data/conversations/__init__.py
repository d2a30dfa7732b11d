"""Conversations: samples of both kinds from chat logs and their feedback."""
