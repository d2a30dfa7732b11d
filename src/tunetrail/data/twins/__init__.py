"""Twins: finds equal and similar rows of a session from sketches, in bounded memory."""
