# ruff: noqa: RUF001 -- typographic and Cyrillic characters are meant
"""What goes wrong with a text on its way: misread encodings, lost characters, markup. Draws with a seeded generator."""

import html
import random
from collections.abc import Callable
from typing import Any

import ftfy.bad_codecs

ftfy.bad_codecs.ok()  # the web's own cp1252, which reads all bytes, is registered with it

FOREIGN_PIECES = (
    "See “Müller & Söhne” for details.",
    "It’s the café’s own naïve method…",
    "The price is 20 € – half of it for señor Peña.",
    "Ångström wrote ½ of it in Malmö.",
    "The user Zażółć is a test, too.",
    "It prints Привет before all else.",
    "Temperatures above 40 °C aren’t supported.",
    "Crème brûlée, pâté and jalapeño are valid names.",
)
"""Sentences with characters beyond ASCII, all of them right."""
RIGHT_CHARACTERS = (
    "├── setup.py └── src",
    "∀x ∈ ℝ: x² ≥ 0",
    "It works 🎉 now!",
    "What??? Really?",
    "Matches file??.txt only.",
    "日本語のテキストも入力できます。",
    "a\tb\tc",
    "naïve — “quoted”",
)
"""What only looks like damage."""


def misread(text: str, encoding: str, times: int = 1) -> str:
    """Return a text whose UTF-8 was read in another encoding; bytes that this one lacks are lost."""
    for _ in range(times):
        text = text.encode().decode(encoding, "replace")
    return text


def _misread_as(encoding: str, times: int = 1) -> Callable[[random.Random, str], str]:
    return lambda rng, text: misread(f"{text} {rng.choice(FOREIGN_PIECES)}", encoding, times)


def _lost_bytes(rng: random.Random, text: str) -> str:
    whole = f"{text} {rng.choice(FOREIGN_PIECES)}"
    for encoding in ("latin-1", "cp1252", "cp1250"):
        try:
            return whole.encode(encoding).decode("utf-8", "replace")
        except UnicodeEncodeError:
            continue
    return whole.encode("cp1251").decode("utf-8", "replace")


def _inserted(characters: str) -> Callable[[random.Random, str], str]:
    def insert(rng: random.Random, text: str) -> str:
        place = rng.randrange(1, len(text))
        return text[:place] + rng.choice(characters) + text[place:]

    return insert


def _lost_words(rng: random.Random, text: str) -> str:
    words = rng.choice(("Работает и с русским текстом.", "Привет, мир", "日本語 テキスト")).encode(
        "ascii", "replace"
    )
    return f"{text} {words.decode()}"


ENCODING_DAMAGE: dict[str, Callable[[random.Random, str], str]] = {
    "UTF-8 as cp1252": _misread_as("sloppy-windows-1252"),
    "UTF-8 as cp1252, twice": _misread_as("sloppy-windows-1252", 2),
    "UTF-8 as latin-1": _misread_as("latin-1"),
    "UTF-8 as cp1250": _misread_as("sloppy-windows-1250"),
    "UTF-8 as cp1251": _misread_as("sloppy-windows-1251"),
    "UTF-8 as cp437": _misread_as("cp437"),
    "UTF-8 as Mac Roman": _misread_as("mac_roman"),
    "another encoding as UTF-8": _lost_bytes,
    "NUL": _inserted("\0"),
    "control characters": _inserted("\x01\x07\x08\x1b\x7f\x85\x9d"),
    "ASCII with question marks": _lost_words,
}
"""Ways in which encodings damage a text, each a function of a generator and a text."""

MARKUP: tuple[Callable[[str], str], ...] = (
    lambda text: f"<p>{text}</p>",
    lambda text: f'<div class="note"><p>{text}</p></div>',
    lambda text: f"<span style='color: red'>{text}</span>",
    lambda text: f"<!-- generated --><p>{text}</p>",
    lambda text: f"<p>{text}</p><script>var a = 1 < 2;</script>",
    lambda text: f"<html><body><p>{text}</p></body></html>",
    lambda text: (
        f"<p>{text.replace(' ', ' <b>', 1).replace(' ', '</b> ', 2).replace('</b> <b>', ' <b>', 1)}</p>"
    ),
    lambda text: f"<ul><li>{text}</li></ul>",
)
"""Ways to write a text as HTML."""

NOT_MARKUP = (
    "if a < b and c > d: return a & b",
    "std::vector<std::pair<int, T>> items; items.push_back(x);",
    "The <b> tag makes text bold, the <i> tag italic.",
    "def less(a: List[int], b) -> bool:\n    return a[0] <b[0]",
    "List<String> names = new ArrayList<>();",
    "Write &lt; for the less-than sign in HTML.",
    "usage: tool [-h] <input> <output>",
    "Returns <unknown> where x<y holds & z>0.",
    "<config><path>/tmp</path><retries>3</retries></config>",
    "print('<html>' + body + '</html>')",
    "a<-b; x<<=2; y>>=1",
    "Sends mail to <nobody> when R&D closes.",
)
"""What has angle brackets and ampersands of its own."""


def as_markup(rng: random.Random, text: str) -> str:
    """Return a text in HTML."""
    return rng.choice(MARKUP)(html.escape(text, quote=rng.random() < 0.5))


def wrong_types(rng: random.Random) -> Any:
    """Return something that is no text."""
    return rng.choice(
        (
            7,
            -1.5,
            True,
            ["a", "list"],
            {"a": "dict"},
            ("a", "tuple"),
            "lone \udc80",
            10**30,
            [],
            {},
            b"bytes",
            {1, 2},
        )
    )
