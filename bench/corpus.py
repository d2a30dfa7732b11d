"""Made rows: phrases of the standard library's documentation put together at random, with planted faults.

Every row is 20 to 200 words long. What is planted is known row by row, so that what preparation
finds can be counted.
"""

import ast
import functools
import random
import string
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_WORDS = (20, 200)
_PHRASE_WORDS = (5, 14)
"""Long enough to read as English; so short that no two texts share four fifths of their phrases by chance."""
_REMEMBERED = 20_000
_SHARES = {
    "near_copy": 0.02,
    "hard_non_copy": 0.01,
    "exact_copy": 0.01,
    "personal": 0.01,
    "mojibake": 0.005,
}
_REPLACED_SHARE = 0.2
"""Of the rows that copies are made from, so that some copies are near and others far away."""
_EDITED_FROM_WORDS = 60
"""One other word in a text of 60 leaves a similarity of 0.9: shorter ones have few copies to choose from."""
_SIMILARITIES = {"near_copy": (0.8, 1.0), "hard_non_copy": (0.5, 0.7)}
_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "ensurepip",
    "__pycache__",
    "turtledemo",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeRow:
    """One text, and what was planted.

    Attributes:
        row_id: Its number, from 1.
        text: The text.
        planted: `plain`, or what it is: a near copy, a similar text that is none, an exact copy, a
            text with personal data or with broken encoding.
        source: The row that it was made from, 0 for none.
        similarity: Jaccard index of both texts' word 3-shingles, 0 where it was made from none.
        kind: Kind of the planted personal data, empty for none.
    """

    row_id: int
    text: str
    planted: str = "plain"
    source: int = 0
    similarity: float = 0.0
    kind: str = ""


def made_rows(count: int, seed: int) -> Iterator[MadeRow]:
    """Yield `count` rows; a row that is made from another one comes after it."""
    rng = random.Random(seed)
    remembered: list[MadeRow] = []
    kinds = ["plain", *_SHARES]
    shares = [1.0 - sum(_SHARES.values()), *_SHARES.values()]
    for row_id in range(1, count + 1):
        row = _row(row_id, rng.choices(kinds, shares)[0], remembered, rng)
        if row.planted == "plain" and len(row.text.split()) >= _EDITED_FROM_WORDS:
            if len(remembered) < _REMEMBERED:
                remembered.append(row)
            elif rng.random() < _REPLACED_SHARE:
                remembered[rng.randrange(_REMEMBERED)] = row
        yield row


def similarity_of(first: str, second: str) -> float:
    """Return the Jaccard index of two texts' word 3-shingles."""
    one, other = _shingles(first.split()), _shingles(second.split())
    return len(one & other) / len(one | other) if one or other else 1.0


def phrase(words: int, rng: random.Random) -> list[str]:
    """Return so many successive words of a documentation."""
    stream = word_stream()
    start = rng.randrange(len(stream) - words)
    return list(stream[start : start + words])


def plain_text(rng: random.Random) -> str:
    """Return 20 to 200 words, put together from phrases."""
    wanted = rng.randint(*_WORDS)
    words: list[str] = []
    while len(words) < wanted:
        words += phrase(rng.randint(*_PHRASE_WORDS), rng)
    return " ".join(words[:wanted])


def _row(row_id: int, kind: str, remembered: Sequence[MadeRow], rng: random.Random) -> MadeRow:
    if kind == "personal":
        name = rng.choice(_PERSONAL_KINDS)
        words = plain_text(rng).split()
        words.insert(rng.randrange(len(words)), _PERSONAL[name](rng))
        return MadeRow(row_id=row_id, text=" ".join(words), planted=kind, kind=name)
    if kind == "mojibake":
        broken = "naïve café, “quoted”, Größe".encode().decode("cp1252", "replace")
        return MadeRow(row_id=row_id, text=f"{plain_text(rng)} {broken}", planted=kind)
    if kind != "plain" and remembered:
        source = rng.choice(remembered)
        if kind == "exact_copy":
            return MadeRow(
                row_id=row_id, text=source.text, planted=kind, source=source.row_id, similarity=1.0
            )
        words = source.text.split()
        text = _edited(words, _SIMILARITIES[kind], rng)
        similarity = similarity_of(source.text, text)
        if _SIMILARITIES[kind][0] <= similarity < _SIMILARITIES[kind][1]:
            return MadeRow(
                row_id=row_id, text=text, planted=kind, source=source.row_id, similarity=similarity
            )
    return MadeRow(row_id=row_id, text=plain_text(rng))


def _edited(words: Sequence[str], similarities: tuple[float, float], rng: random.Random) -> str:
    """Return the words with so many of them replaced, left out or added that their similarity falls to a drawn one."""
    wanted = rng.uniform(*similarities)
    original, text = _shingles(words), list(words)
    while True:
        before, place = list(text), rng.randrange(len(text))
        match rng.randrange(3):
            case 0:
                text[place : place + 1] = phrase(1, rng)
            case 1:
                text[place : place + 1] = []
            case _:
                text[place:place] = phrase(rng.randint(1, 2), rng)
        shingles = _shingles(text)
        similarity = len(original & shingles) / len(original | shingles)
        if similarity < wanted:
            return " ".join(text if similarity >= similarities[0] else before)


def _shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(words, words[1:], words[2:], strict=False))


def _digits(count: int, rng: random.Random) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _email(rng: random.Random) -> str:
    return f"{rng.choice(['anna', 'li.wei', 'bob99', 'maria'])}.{_digits(4, rng)}@mail.example.com"


def _phone(rng: random.Random) -> str:
    return f"+49 30 {rng.randint(2, 9)}{_digits(6, rng)}"


def _card(rng: random.Random) -> str:
    body = f"4{_digits(14, rng)}"
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(body)]
    check = -sum(each - 9 * (each > 9) for each in doubled) % 10
    number = f"{body}{check}"
    return " ".join(number[place : place + 4] for place in range(0, 16, 4))


def _iban(rng: random.Random) -> str:
    account = _digits(18, rng)
    return f"DE{98 - int(f'{account}131400') % 97:02d}{account}"


def _ip_address(rng: random.Random) -> str:
    return f"81.{'.'.join(str(rng.randint(1, 254)) for _ in range(3))}"


def _secret(rng: random.Random) -> str:
    return f"ghp_{''.join(rng.choices(string.ascii_letters + string.digits, k=36))}"


_PERSONAL: dict[str, Callable[[random.Random], str]] = {
    "EMAIL": _email,
    "PHONE": _phone,
    "CARD": _card,
    "IBAN": _iban,
    "IP_ADDRESS": _ip_address,
    "SECRET": _secret,
}
_PERSONAL_KINDS = tuple(_PERSONAL)


@functools.cache
def word_stream() -> tuple[str, ...]:
    """Return the words of all different paragraphs of docstrings and blocks of comments, in the order of the files."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path
        for path in root.rglob("*.py")
        if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts[:-1])
    )
    paragraphs = dict.fromkeys(paragraph for path in files for paragraph in _paragraphs(path))
    return tuple(word for paragraph in paragraphs for word in paragraph.split())


def _paragraphs(path: Path) -> Iterator[str]:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        with warnings.catch_warnings():
            # The parser warns of odd escapes in code that isn't ours.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, OSError):
        return
    comments, block = [], []
    for line in [*source.splitlines(), ""]:
        if line.lstrip().startswith("# "):
            block.append(line.lstrip()[2:])
        elif block:
            comments.append(" ".join(block))
            block = []
    documented = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
    )
    docstrings = [ast.get_docstring(node) or "" for node in documented]
    for paragraph in [*(part for each in docstrings for part in each.split("\n\n")), *comments]:
        text = " ".join(paragraph.split())
        if len(text.split()) >= _PHRASE_WORDS[0] and _is_prose(text):
            yield text


def _is_prose(text: str) -> bool:
    return text.isascii() and sum(char.isalpha() or char == " " for char in text) >= 0.9 * len(text)
