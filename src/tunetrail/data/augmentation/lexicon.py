"""Lexicons: which words can stand for a word. Reads WordNet's own files or a user's list; knows nothing of texts.

WordNet is read from its database files (`data.noun` and the like, wndb(5WN)), which Debian's wordnet-base, Princeton's
archive and nltk's corpus all consist of, so that no library is needed for it.
"""

import contextlib
import functools
import os
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunetrail.errors import ConfigError

_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_NLTK_NAMES = ("wordnet", "wordnet31", "wordnet2022", "wordnet2021")
_IRREGULAR_FILES = ("noun.exc", "verb.exc", "adj.exc", "adv.exc")
_ENDINGS = ("s", "ed", "ing")
_SHORTEST_WORD = 4  # below, WordNet is full of abbreviations: "in" is an inch, "it" is technology


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Synonyms by word.

    Attributes:
        source: Where they were read.
        synonyms: For a word in lower case, the words that can stand for it.
    """

    source: str
    synonyms: Mapping[str, tuple[str, ...]] = field(repr=False)

    def of(self, word: str) -> tuple[str, ...]:
        """Return the synonyms of a word in its own capitalisation; none where that is neither low, Title nor UPPER."""
        found = self.synonyms.get(word.lower(), ())
        if word.islower():
            return found
        if word.isupper():
            return tuple(each.upper() for each in found)
        return tuple(each[:1].upper() + each[1:] for each in found) if word.istitle() else ()


@functools.lru_cache(maxsize=2)
def load_lexicon(source: str | None = None) -> Lexicon:
    """Read synonyms.

    Of WordNet, a synonym counts only where it is one in more than half of the word's senses, over all parts of speech,
    and only for words of four letters or more that are no inflected form and no stop word.

    Args:
        source: A file of lines `word<TAB>synonym, synonym`, a folder of WordNet's database files, or None: WordNet
            where it is installed.

    Raises:
        ConfigError: There is no lexicon, or the file can't be read as one.
    """
    if source is None:
        place = next((place for place in _places() if _holds_wordnet(place)), None)
        if place is None:
            raise ConfigError(
                "augmentation.lexicon must be set where no WordNet is installed, got None. Install it "
                "(apt install wordnet-base, or python -m nltk.downloader wordnet; $WNHOME and $NLTK_DATA name other "
                "places), or name a file of lines word<TAB>synonym, synonym."
            )
        return Lexicon(source=str(place), synonyms=_unambiguous(place))
    path = Path(source).expanduser()
    if _holds_wordnet(path):
        return Lexicon(source=source, synonyms=_unambiguous(path))
    return Lexicon(source=source, synonyms=_listed(path, source))


def _places() -> Iterator[Path]:
    variables = os.environ
    if "WNSEARCHDIR" in variables:
        yield Path(variables["WNSEARCHDIR"])
    if "WNHOME" in variables:
        yield Path(variables["WNHOME"]) / "dict"
    yield from (Path("/usr/share/wordnet"), Path("/usr/local/WordNet-3.0/dict"))
    named = [Path(place) for place in variables.get("NLTK_DATA", "").split(os.pathsep) if place]
    prefixes = (Path(sys.prefix), Path(sys.prefix) / "share", Path(sys.prefix) / "lib")
    usual = [Path.home(), *prefixes, Path("/usr/share"), Path("/usr/local/share"), Path("/usr/lib")]
    for data in (*named, *(place / "nltk_data" for place in usual)):
        for name in _NLTK_NAMES:
            yield from (data / "corpora" / name, data / "corpora" / f"{name}.zip")


def _holds_wordnet(place: Path) -> bool:
    return all((place / name).is_file() for name in _FILES) or (
        place.suffix == ".zip" and zipfile.is_zipfile(place)
    )


def _lines(place: Path, names: Sequence[str]) -> Iterator[str]:
    if place.is_dir():
        for name in names:
            yield from (place / name).read_text(encoding="utf-8", errors="replace").split("\n")
        return
    with zipfile.ZipFile(place) as archive:
        for name in names:
            yield from archive.read(f"{place.stem}/{name}").decode("utf-8", "replace").split("\n")


def _irregular_forms(place: Path) -> set[str]:
    """Return words such as "built" or "mice", as far as the place lists them."""
    forms: set[str] = set()
    for name in _IRREGULAR_FILES:
        with contextlib.suppress(OSError, KeyError):
            forms.update(line.partition(" ")[0] for line in _lines(place, [name]))
    return forms


def _senses(place: Path) -> dict[str, list[tuple[str, ...]]]:
    """Return for each word in lower case the words of each of its senses, as they are written.

    Raises:
        ConfigError: A line isn't in WordNet's format.
    """
    senses: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    try:
        for line in _lines(place, _FILES):
            if not line or line.startswith(" "):  # the licence
                continue
            _, _, _, count, rest = line.split(" ", 4)
            twice = 2 * int(count, 16)
            words = tuple(
                word.partition("(")[0].replace("_", " ")
                for word in rest.split(" ", twice)[:twice:2]
            )
            for word in {word.lower() for word in words}:
                senses[word].append(words)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"augmentation.lexicon must be WordNet's database files, got {str(place)!r} ({error}). "
            "Install WordNet again."
        ) from error
    return senses


def _unambiguous(place: Path) -> dict[str, tuple[str, ...]]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    senses, left_out = _senses(place), ENGLISH_STOP_WORDS | _irregular_forms(place)
    synonyms = {}
    for word, groups in senses.items():
        if (
            len(word) < _SHORTEST_WORD
            or not word.isalpha()
            or word in left_out
            or _is_form(word, senses)
        ):
            continue
        counts = Counter(each for group in groups for each in sorted(set(group)))
        found = [
            each
            for each, count in counts.items()
            if 2 * count > len(groups) and _stands_for(each, word)
        ]
        if found:
            synonyms[word] = tuple(sorted(found))
    return synonyms


def _stands_for(synonym: str, word: str) -> bool:
    """Whether it is another word, and no name, abbreviation or formula: those aren't written in lower-case letters."""
    return (
        synonym != word
        and synonym.islower()
        and synonym.replace(" ", "").replace("-", "").isalpha()
    )


def _is_form(word: str, senses: Mapping[str, object]) -> bool:
    """Whether it looks like an inflected form of a word: "strings" is a section of an orchestra, and hardly meant."""
    for ending in _ENDINGS:
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            stems = {stem, stem + "e", stem.removesuffix("e"), stem.removesuffix("ie") + "y"}
            if stem[-2:-1] == stem[-1:]:
                stems.add(stem[:-1])
            return any(each in senses for each in stems)
    return False


def _listed(path: Path, source: str) -> dict[str, tuple[str, ...]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"augmentation.lexicon must be a file of UTF-8 text or a WordNet folder, got {source!r} ({error}). "
            "Name a file of lines word<TAB>synonym, synonym."
        ) from error
    synonyms: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        word, _, listed = line.partition("\t")
        word = word.strip().lower()
        found = dict.fromkeys(each.strip() for each in listed.split(","))
        kept = tuple(each for each in found if each and each.lower() != word)
        if not word or not kept:
            raise ConfigError(
                f"augmentation.lexicon must hold lines word<TAB>synonym, synonym, got another one at line {number} of "
                f"{source}. Mend or remove it."
            )
        synonyms[word] = (*synonyms.get(word, ()), *kept)
    return synonyms
