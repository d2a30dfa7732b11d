"""Texts: their encoding, language, markup, prose and sentences, whatever rows they come from."""
