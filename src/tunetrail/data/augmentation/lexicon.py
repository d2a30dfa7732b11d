"""Lexicons: the synonyms of words, read from WordNet's own files or from a user's list.

WordNet is read from its database files (`data.noun` and the like, wndb(5WN)), which Debian's
wordnet-base, Princeton's archive and nltk's corpus all consist of, so it needs no library.
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
# Below four letters, WordNet is full of abbreviations: "in" is an inch, "it" is technology.
_SHORTEST_WORD = 4


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Synonyms by word.

    Attributes:
        source: The file or folder that they were read from.
        synonyms: The words that can replace a word in lower case.
    """

    source: str
    synonyms: Mapping[str, tuple[str, ...]] = field(repr=False)

    def of(self, word: str) -> tuple[str, ...]:
        """Return the synonyms of a word in its own capitalisation (lower, Title or UPPER)."""
        synonyms = self.synonyms.get(word.lower(), ())
        if word.islower():
            return synonyms
        if word.isupper():
            return tuple(map(str.upper, synonyms))

        # Mixed case is a name or an identifier.
        if not word.istitle():
            return ()
        return tuple(synonym[:1].upper() + synonym[1:] for synonym in synonyms)


@functools.lru_cache(maxsize=2)
def load_lexicon(source: str | None = None) -> Lexicon:
    """Read synonyms.

    From WordNet, only synonyms that hold in more than half of the word's senses are taken, over
    all parts of speech, and only for words of four letters or more that are neither inflected
    forms nor stop words.

    Args:
        source: A file of lines `word<TAB>synonym, synonym`, a folder of WordNet's database files,
            or None for the WordNet that is installed.

    Raises:
        ConfigError: There is no lexicon, or the file can't be read as one.
    """
    if source is None:
        installed = next(filter(_holds_wordnet, _usual_paths()), None)
        if installed is None:
            raise ConfigError(
                "augmentation.lexicon must be set if no WordNet is installed, got None. Install it "
                "(apt install wordnet-base, or python -m nltk.downloader wordnet; $WNHOME and "
                "$NLTK_DATA name other folders), or name a file of lines word<TAB>synonym, synonym."
            )
        return Lexicon(source=str(installed), synonyms=_read_wordnet(installed))

    path = Path(source).expanduser()
    synonyms = _read_wordnet(path) if _holds_wordnet(path) else _read_list(path, source)
    return Lexicon(source=source, synonyms=synonyms)


def _usual_paths() -> Iterator[Path]:
    """Yield the paths at which WordNet's tools and nltk look for it, in their order."""
    variables = os.environ
    if "WNSEARCHDIR" in variables:
        yield Path(variables["WNSEARCHDIR"])
    if "WNHOME" in variables:
        yield Path(variables["WNHOME"]) / "dict"
    yield from (Path("/usr/share/wordnet"), Path("/usr/local/WordNet-3.0/dict"))

    # nltk.data.path: $NLTK_DATA first, then the home folder, the environment and the system.
    named = filter(None, variables.get("NLTK_DATA", "").split(os.pathsep))
    prefix = Path(sys.prefix)
    roots = (Path.home(), prefix, prefix / "share", prefix / "lib")
    system = (Path("/usr/share"), Path("/usr/local/share"), Path("/usr/lib"))
    folders = [*map(Path, named), *(root / "nltk_data" for root in (*roots, *system))]

    for folder in folders:
        for name in _NLTK_NAMES:
            yield from (folder / "corpora" / name, folder / "corpora" / f"{name}.zip")


def _holds_wordnet(path: Path) -> bool:
    has_files = all((path / name).is_file() for name in _FILES)
    return has_files or (path.suffix == ".zip" and zipfile.is_zipfile(path))


def _lines(path: Path, names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of WordNet's files, from a folder or from nltk's archive."""
    if path.is_dir():
        for name in names:
            yield from (path / name).read_text(encoding="utf-8", errors="replace").split("\n")
        return

    with zipfile.ZipFile(path) as archive:
        for name in names:
            yield from archive.read(f"{path.stem}/{name}").decode("utf-8", "replace").split("\n")


def _read_irregular_forms(path: Path) -> set[str]:
    """Return words such as "built" or "mice", if WordNet lists them there."""
    forms: set[str] = set()
    for name in _IRREGULAR_FILES:
        with contextlib.suppress(OSError, KeyError):
            forms.update(line.partition(" ")[0] for line in _lines(path, [name]))
    return forms


def _read_senses(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """Return the words of each sense of each word in lower case, as WordNet writes them.

    Raises:
        ConfigError: A line isn't in WordNet's format.
    """
    senses: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    try:
        for line in _lines(path, _FILES):
            if not line or line.startswith(" "):  # the licence
                continue

            # offset, file, part of speech, count of words (hexadecimal), then word and id by turns
            _, _, _, count, fields = line.split(" ", 4)
            twice = 2 * int(count, 16)
            spelled = fields.split(" ", twice)[:twice:2]
            words = tuple(word.partition("(")[0].replace("_", " ") for word in spelled)
            for word in set(map(str.lower, words)):
                senses[word].append(words)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"augmentation.lexicon must be WordNet's database files, got {str(path)!r} ({error}). "
            "Install WordNet again."
        ) from error
    return senses


def _read_wordnet(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the synonyms that hold in most senses of a word: others would change the meaning."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    senses = _read_senses(path)
    excluded = ENGLISH_STOP_WORDS | _read_irregular_forms(path)

    synonyms = {}
    for word, senses_of_word in senses.items():
        is_plain = len(word) >= _SHORTEST_WORD and word.isalpha() and word not in excluded
        if not is_plain or _is_inflected(word, senses):
            continue

        counts: Counter[str] = Counter()
        for words in senses_of_word:
            # A sense counts once for each word, even if it lists it twice.
            counts.update(set(words))
        usable = []
        for name, count in counts.items():
            if 2 * count > len(senses_of_word) and _can_replace(name, word):
                usable.append(name)
        if usable:
            synonyms[word] = tuple(sorted(usable))
    return synonyms


def _can_replace(synonym: str, word: str) -> bool:
    """Tell whether a synonym is another word, and no name, abbreviation or formula."""
    letters = synonym.replace(" ", "").replace("-", "")
    return synonym != word and synonym.islower() and letters.isalpha()


def _is_inflected(word: str, senses: Mapping[str, object]) -> bool:
    """Tell whether a word looks like an inflected form of another one.

    "strings" has a sense of its own (a section of an orchestra), which is hardly ever meant.
    """
    for ending in _ENDINGS:
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            # "mak-ing" from "make", "tri-es" from "try", "runn-ing" from "run"
            stems = {stem, stem + "e", stem.removesuffix("e"), stem.removesuffix("ie") + "y"}
            if stem[-2:-1] == stem[-1:]:
                stems.add(stem[:-1])
            return any(map(senses.__contains__, stems))
    return False


def _read_list(path: Path, source: str) -> dict[str, tuple[str, ...]]:
    """Return the synonyms of a file of lines `word<TAB>synonym, synonym`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "augmentation.lexicon must be a file of UTF-8 text or a WordNet folder, got "
            f"{source!r} ({error}). Name a file of lines word<TAB>synonym, synonym."
        ) from error

    synonyms: dict[str, tuple[str, ...]] = {}
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        word, _, listed = line.partition("\t")
        word = word.strip().lower()

        # A dict keeps the order of the list, and each synonym once.
        names = dict.fromkeys(map(str.strip, listed.split(",")))
        usable = tuple(name for name in names if name and name.lower() != word)
        if not word or not usable:
            raise ConfigError(
                "augmentation.lexicon must hold lines of the form word<TAB>synonym, synonym; "
                f"line {line_number} of {source} doesn't. Correct or remove it."
            )
        synonyms[word] = (*synonyms.get(word, ()), *usable)
    return synonyms
