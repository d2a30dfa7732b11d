from pathlib import Path

import pytest
from jinja2 import UndefinedError

from tunetrail.reporting.html import PageTemplate, captioned, picture_address
from tunetrail.reporting.readable import Span, largest


def page(folder: Path, body: str, **values: object) -> str:
    path = folder / "report.html"
    path.write_text(
        '{% extends "page.html" %}{% from "macros.html" import counted, spans %}'
        "{% block title %}A report{% endblock %}{% block body %}" + body + "{% endblock %}"
    )
    return PageTemplate(path, {"doubled": lambda count: 2 * count}).render(**values)


def test_page_has_a_title_and_forbids_scripts_and_requests(tmp_path: Path) -> None:
    text = page(tmp_path, "<p>Hello</p>")

    assert "<title>A report</title>" in text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "<p>Hello</p>" in text


def test_values_are_escaped_and_shortened(tmp_path: Path) -> None:
    text = page(tmp_path, "[{{ markup }}] [{{ long }}]", markup="<b>", long="x" * 10_000)

    assert "[&lt;b&gt;]" in text
    assert f"[{'x' * 599}…]" in text


def test_pictures_are_whole(tmp_path: Path) -> None:
    address = picture_address(b"\x89PNG" * 1_000)

    text = page(tmp_path, '<img src="{{ address }}">', address=address)

    assert f'<img src="{address}">' in text
    assert address.startswith("data:image/png;base64,")


def test_pictures_have_the_captions_of_their_names() -> None:
    shown = captioned({"b": b"second", "a": b"first"}, {"a": "The first", "b": "The second"})

    addresses = [picture_address(b"second"), picture_address(b"first")]
    assert shown == list(zip(["The second", "The first"], addresses, strict=True))


def test_filters_write_numbers(tmp_path: Path) -> None:
    text = page(tmp_path, "{{ 1200 | count }} {{ 0.5123 | compact }} {{ 2 | doubled }}")

    assert "1,200 0.512 4" in text


def test_macros_mark_changes_and_list_counts(tmp_path: Path) -> None:
    changes = [Span(kind="removed", text="a<"), Span(kind="added", text="b")]
    counts = largest({"x": 3, "y": 2, "z": 1}, 1)

    body = "{{ spans(changes) }}{{ counted('Label', 'Rows', counts) }}"
    text = page(tmp_path, body, changes=changes, counts=counts)

    assert "<del>a&lt;</del><ins>b</ins>" in text
    assert "<td>x</td>" in text and "2 others" in text


def test_a_value_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="'absent' is undefined"):
        page(tmp_path, "{{ absent }}")
