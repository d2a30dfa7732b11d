"""Texts whose topic can be read off them: paragraphs of documentation in Python's standard library. Knows no defect."""

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LONGEST = 200
_FEWEST_WORDS = 8
_FEWEST_MENTIONS = 2
_WORD = re.compile(r"[A-Za-z]{2,}")
_BLANK_LINE = re.compile(r"\n\s*\n")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Files and packages of the standard library about one thing, and the words that give it away."""

    places: tuple[str, ...]
    words: str

    def evidence(self, text: str) -> int:
        """Return how many words of a text are the topic's."""
        return len(re.findall(rf"\b(?:{self.words})s?\b", text, re.IGNORECASE))


LABELLED = {
    "mail": Topic(
        places=("email", "mailbox.py", "imaplib.py", "smtplib.py", "poplib.py", "mailcap.py"),
        words="mail|message|header|MIME|IMAP|SMTP|POP3|mailbox",
    ),
    "archives": Topic(
        places=(
            "tarfile.py",
            "zipfile.py",
            "gzip.py",
            "bz2.py",
            "lzma.py",
            "zipimport.py",
            "zipapp.py",
        ),
        words="archive|compress|tar|zip|gzip|bzip2|lzma",
    ),
    "markup": Topic(
        places=("xml", "html", "_markupbase.py"),
        words="XML|HTML|DTD|SAX|DOM|element|entity|markup|document",
    ),
    "numbers": Topic(
        places=("_pydecimal.py", "fractions.py", "statistics.py", "random.py"),
        words="decimal|number|digit|exponent|fraction|integer|mean|median|variance|rounded|sample|distribution",
    ),
    "dates": Topic(
        places=("calendar.py", "datetime.py", "_pydatetime.py", "_strptime.py"),
        words="date|year|month|week|weekday|timezone|UTC|calendar",
    ),
    "windows": Topic(
        places=("tkinter",),
        words="widget|window|canvas|menu|tk|tcl|mouse|listbox|scrollbar|font|pixel|button",
    ),
    "logging": Topic(places=("logging",), words="log|logger|handler|logging|logged"),
    "testing": Topic(places=("unittest", "doctest.py"), words="test|mock|assert|doctest|suite"),
    "tasks": Topic(
        places=("asyncio", "threading.py", "multiprocessing", "concurrent"),
        words="thread|coroutine|task|event loop|lock|semaphore|future|process",
    ),
    "addresses": Topic(places=("ipaddress.py",), words="IPv4|IPv6|IP|network|netmask|address"),
}
"""Ten topics that a reader tells apart."""

_DRAWING = Topic(places=("turtle.py",), words="turtle|pen|screen|shape|color")


@cache
def labelled_texts() -> dict[str, tuple[str, ...]]:
    """Return texts by topic: each has two words of its own topic or more, and fewer of every other one."""
    return {
        name: tuple(
            text
            for text in _texts(topic)
            if topic.evidence(text) >= _FEWEST_MENTIONS
            and topic.evidence(text)
            > max(other.evidence(text) for each, other in LABELLED.items() if each != name)
        )
        for name, topic in LABELLED.items()
    }


@cache
def interface_texts() -> tuple[str, ...]:
    """Return texts of one domain, as a session's are: what a program draws on the screen."""
    return tuple(
        dict.fromkeys(text for topic in (LABELLED["windows"], _DRAWING) for text in _texts(topic))
    )


def _texts(topic: Topic) -> Iterator[str]:
    """Yield the beginnings of paragraphs of eight words or more, with a word of the topic, once each."""
    seen = set()
    for paragraph in (
        each for place in topic.places for file in _files(place) for each in _paragraphs(file)
    ):
        text = paragraph[:_LONGEST].strip()
        long_enough = len(_WORD.findall(text)) >= _FEWEST_WORDS
        if long_enough and ">>>" not in text and text not in seen and topic.evidence(text):
            seen.add(text)
            yield text


def _files(place: str) -> list[Path]:
    found = Path(sysconfig.get_paths()["stdlib"]) / place
    inside = sorted(found.rglob("*.py")) if found.is_dir() else [found] if found.is_file() else []
    return [
        file
        for file in inside
        if not {"test", "tests", "tkinter.test"} & set(file.relative_to(found).parts)
    ]


def _paragraphs(file: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # the library's own backslashes
        tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in _BLANK_LINE.split(ast.get_docstring(node) or ""):
                yield " ".join(paragraph.split())
