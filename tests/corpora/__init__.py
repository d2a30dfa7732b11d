"""Texts written for the tests, shared by several of them."""
