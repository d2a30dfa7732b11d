"""The code blocks of the README and of the pages in docs/, as their readers run them."""

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
DOCUMENTS = (README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md")))


def blocks(language: str, *documents: Path) -> list[str]:
    """Return the blocks of a language, or of several as in `bash|shell`, in the pages' order."""
    texts = [document.read_text() for document in documents or DOCUMENTS]
    pattern = re.compile(rf"^```(?:{language})\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
    return [block for text in texts for block in pattern.findall(text)]


def commands(language: str = "bash", *documents: Path) -> list[list[str]]:
    """Return the words of each command of these blocks."""
    lines = "\n".join(blocks(language, *documents)).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]
