"""Conversations: samples of both kinds from chat logs and their feedback. Knows no files and no database."""
