"""Privacy: replaces personal data and secrets in a text by typed placeholders. Knows nothing of rows or files."""

from tunetrail.data.privacy.scrubber import Scrubber

__all__ = ["Scrubber"]
