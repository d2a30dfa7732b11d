import zipfile
from pathlib import Path

import pytest

from tunetrail.data.augmentation.lexicon import Lexicon, load_lexicon
from tunetrail.errors import ConfigError

# Senses written for this test, in the format of WordNet's database files: wndb(5WN).
SENSES = {
    "noun": [
        "dwelling abode",
        "gadget gizmo",
        "hill",
        "hills ridge_top",
        "Gizmoland gizmo_land",
        "gale strong_wind",
    ],
    "verb": [
        "begin start",
        "begin start commence",
        "begin found",
        "reckon suppose",
        "wend go",
        "went_by pass",
    ],
    "adj": ["glad(p) joyful", "strange odd", "strange foreign", "when while", "went passed"],
    "adv": ["swiftly fast D.V. x2"],
}


def wordnet(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for word_class, senses in SENSES.items():
        lines = ["  1 This is a licence.  "]
        for offset, words in enumerate(senses):
            fields = " ".join(f"{word} 0" for word in words.split())
            lines.append(
                f"{offset:08} 03 {word_class[0]} {len(words.split()):02x} {fields} 000 | a gloss with abode"
            )
        (folder / f"data.{word_class}").write_text("\n".join(lines) + "\n")
    (folder / "verb.exc").write_text("went wend\n")
    return folder


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without WordNet: no place that is looked at has any."""
    for name in ("WNSEARCHDIR", "WNHOME", "NLTK_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if any(Path(folder).exists() for folder in ("/usr/share/wordnet", "/usr/share/nltk_data")):
        pytest.skip("WordNet is installed for the whole machine")
    load_lexicon.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("dwelling", ("abode",)),
        ("begin", ("start",)),  # in two senses of three; "commence" and "found" are in one
        ("strange", ()),  # every synonym is one in half of the senses only
        ("glad", ("joyful",)),  # the marker behind an adjective is no part of it
        ("gale", ("strong wind",)),
        ("gadget", ("gizmo",)),
        ("hills", ()),  # looks like the plural of "hill"
        ("went", ()),  # is a form of "wend"
        ("when", ()),  # a stop word
        ("odd", ()),  # too short
        ("swiftly", ("fast",)),  # nothing but letters
        ("unknown", ()),
    ],
)
def test_lexicon_takes_from_wordnet_what_is_unambiguous(
    tmp_path: Path, word: str, synonyms: tuple[str, ...]
) -> None:
    assert load_lexicon(str(wordnet(tmp_path / "dict"))).of(word) == synonyms


@pytest.mark.parametrize(
    ("folder_name", "variable", "value"),
    [
        ("dict", "WNSEARCHDIR", "dict"),
        ("wn/dict", "WNHOME", "wn"),
        ("data/corpora/wordnet", "NLTK_DATA", "data"),
        ("home/nltk_data/corpora/wordnet2022", None, None),
        ("prefix/share/nltk_data/corpora/wordnet", None, None),
    ],
)
def test_lexicon_finds_wordnet_where_it_is_usually_installed(
    nowhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder_name: str,
    variable: str | None,
    value: str | None,
) -> None:
    folder = wordnet(nowhere / folder_name)
    if variable and value:
        monkeypatch.setenv(variable, str(nowhere / value))
    lexicon = load_lexicon()
    assert lexicon.source == str(folder) and lexicon.of("dwelling") == ("abode",)


def test_lexicon_reads_the_archive_that_nltk_downloads(nowhere: Path) -> None:
    folder, corpora = (
        wordnet(nowhere / "made" / "wordnet"),
        nowhere / "home" / "nltk_data" / "corpora",
    )
    corpora.mkdir(parents=True)
    with zipfile.ZipFile(corpora / "wordnet.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"wordnet/{file.name}")

    assert load_lexicon().of("Dwelling") == ("Abode",) and load_lexicon().of("went") == ()


def test_lexicon_says_what_to_install(nowhere: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"augmentation\.lexicon must be set .*got None.*apt install wordnet-base"
    ):
        load_lexicon()


@pytest.mark.parametrize("line", ["garbage", "0 03 n zz a 0", "\x00\x00 \x00"])
def test_lexicon_refuses_a_broken_wordnet(tmp_path: Path, line: str) -> None:
    folder = wordnet(tmp_path / "dict")
    (folder / "data.adv").write_text(line)

    with pytest.raises(
        ConfigError, match=r"augmentation.lexicon must be WordNet's database files, got .*dict"
    ):
        load_lexicon(str(folder))


def test_lexicon_refuses_an_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(ConfigError, match="must be WordNet's database files"):
        load_lexicon(str(tmp_path / "other.zip"))


def test_lexicon_reads_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "words.tsv"
    file.write_text(
        "\ufeffInvoice\tbill, statement of account,\n\nRücksendung\tRetoure\ninvoice\tinvoice, note\n"
    )

    lexicon = load_lexicon(str(file))

    assert lexicon.of("invoice") == ("bill", "statement of account", "note")
    assert lexicon.of("RÜCKSENDUNG") == ("RETOURE",)


@pytest.mark.parametrize("line", ["word", "word\t", "word\t,,", "\tsynonym", "word\tWord", "a, b"])
def test_lexicon_names_a_line_that_it_cannot_read(tmp_path: Path, line: str) -> None:
    file = tmp_path / "words.tsv"
    file.write_text(f"good\tfine\n{line}\n")

    with pytest.raises(
        ConfigError, match="must hold lines of the form word<TAB>synonym, synonym; line 2 of"
    ):
        load_lexicon(str(file))


def test_lexicon_refuses_what_is_no_text_file(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "missing", "."):
        with pytest.raises(
            ConfigError, match=r"augmentation\.lexicon must be a file of UTF-8 text or a WordNet"
        ):
            load_lexicon(str(tmp_path / name))


def test_lexicon_keeps_the_capitals_of_the_word() -> None:
    lexicon = Lexicon(source="test", synonyms={"glad": ("joyful", "quite happy")})
    assert lexicon.of("Glad") == ("Joyful", "Quite happy")
    assert lexicon.of("GLAD") == ("JOYFUL", "QUITE HAPPY")
    assert lexicon.of("gLaD") == () == lexicon.of("")


def test_lexicon_reads_a_hundred_thousand_senses_in_seconds(tmp_path: Path) -> None:
    """Looking for the stems of inflected forms was quadratic once."""
    folder = wordnet(tmp_path / "dict")
    names = [
        "".join(chr(97 + int(digit)) for digit in str(index)) for index in range(100_000, 160_000)
    ]
    lines = "".join(f"00000000 03 n 02 {name}s 0 other{name}s 0 000 | x\n" for name in names)
    (folder / "data.noun").write_text(lines)

    assert load_lexicon(str(folder)).of(names[0] + "s") == (f"other{names[0]}s",)
