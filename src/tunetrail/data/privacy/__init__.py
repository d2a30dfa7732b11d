"""Privacy: replaces personal data and secrets in a text with typed placeholders."""

from tunetrail.data.privacy.scrubber import Scrubber

__all__ = ["Scrubber"]
