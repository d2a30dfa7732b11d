import argparse
import ast
import inspect
import json
import logging
import os
import socket
import subprocess
import tarfile
from collections import Counter
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.corpora.languages import SENTENCES

from tunetrail.data.texts.language import Language, detect

MODULES = (argparse, ast, inspect, json, logging, os, socket, subprocess, tarfile)
OTHERS = sorted(set(SENTENCES) - {"en"})


def definitions(module: ModuleType) -> list[tuple[str | None, str]]:
    """First paragraph of the documentation, and code without it, of what a module defines."""
    texts: list[tuple[str | None, str]] = []
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            documentation = ast.get_docstring(node)
            if documentation is not None and len(node.body) > 1:
                del node.body[0]
            texts.append(((documentation or "").partition("\n\n")[0] or None, ast.unparse(node)))
    return texts


@pytest.mark.parametrize("code", sorted(SENTENCES))
def test_detect_names_the_language_of_sentences(code: str) -> None:
    codes = [detect(sentence).code for sentence in SENTENCES[code]]
    assert codes.count(code) >= 0.92 * len(codes)
    assert set(codes) <= {code, None}


def test_detect_takes_nearly_no_foreign_sentence_for_english_or_for_nothing() -> None:
    codes = [detect(sentence).code for code in OTHERS for sentence in SENTENCES[code]]
    assert sum(code not in ("en", None) for code in codes) >= 0.97 * len(codes)


def test_detect_takes_nearly_no_documentation_for_another_language() -> None:
    paragraphs = sorted(
        {text for module in MODULES for text, _ in definitions(module) if text is not None}
    )

    codes = Counter(detect(paragraph).code for paragraph in paragraphs)

    assert len(paragraphs) >= 400
    assert codes["en"] >= 0.6 * len(paragraphs)
    assert len(paragraphs) - codes["en"] - codes[None] < 0.01 * len(paragraphs)


def test_detect_takes_code_for_no_language() -> None:
    sources = [source for module in MODULES for _, source in definitions(module)]

    codes = Counter(detect(source).code for source in sources)

    assert len(sources) >= 1000
    assert codes[None] >= 0.95 * len(sources)
    assert set(codes) <= {"en", None}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "\0\0\0",
        "hello",
        "Guten Tag",
        "\u6771\u4eac\u30bf\u30ef\u30fc",
        "12 345 6,789.00 EUR",
        "https://example.org/de/seite?sprache=deutsch&art=kurz",
        "max_length min_length pad_token eos_token bos_token",
        "getElementById setAttribute removeChild appendChild",
        '{"name": "Wert", "anzahl": 3, "liste": [1, 2, 3]}',
        "SELECT a.id, b.name FROM a JOIN b ON a.id = b.a_id WHERE b.n > 3;",
        "<div class='a'><span id='b'>x</span></div>",
        "x = y + z if a else b",
        "3f9a c0de dead beef 00ff 1234",
        "x" * 1_000_000,
    ],
)
def test_detect_judges_no_text_that_is_too_short_or_no_prose(text: str) -> None:
    assert detect(text) == Language(code=None, confidence=0.0)


def test_detect_looks_past_code_signs_and_line_breaks_in_prose() -> None:
    assert (
        detect(
            "Gibt den Wert von `max_length` zurück,\nwenn er mit set_length() gesetzt wurde."
        ).code
        == "de"
    )
    assert detect("BITTE STARTEN SIE DEN SERVER NEU").code == "de"
    assert detect("\n" * 100_000 + SENTENCES["fr"][0]).code == "fr"
    assert detect("\ud800 " + SENTENCES["ja"][0]).code == "ja"


def test_detect_gives_the_confidence_of_the_model() -> None:
    sure = detect(" ".join(SENTENCES["pl"]))

    assert sure.code == "pl"
    assert 0.9 < sure.confidence <= 1.0

    unsure = detect("lorem ipsum dolor sit amet consectetur")
    assert unsure.code is None
    assert 0.0 < unsure.confidence < 0.4


def test_detect_opens_no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was opened")

    from tunetrail.data.texts import language

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("FTLANG_CACHE", str(tmp_path))
    language._detector.cache_clear()
    assert detect(SENTENCES["es"][0]).code == "es"


@given(st.text(st.characters()))
def test_detect_takes_any_text(text: str) -> None:
    assert 0.0 <= detect(text).confidence <= 1.0
