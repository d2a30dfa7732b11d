"""Texts and chats made into tokens and labels, kept from run to run."""
