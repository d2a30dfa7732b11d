import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report_sections import EMPTY_SECTION

from tunetrail.data.checks.results import CheckResult, Example, StepAccount
from tunetrail.data.report.report import headline, render
from tunetrail.data.report.report_data import ReportData, ReportSection
from tunetrail.data.rows import set_aside_frame

SCRIPT = "<script>alert(1)</script>"
DOCS = [
    str(getattr(kind, name).__doc__)
    for kind in (str, bytes, dict, list, set, int)
    for name in dir(kind)
]
VOID = {"meta", "br", "img", "link", "hr", "input"}


def finding(check: str, severity: str, **values: object) -> CheckResult:
    known = dict(
        rows=12,
        judged=900,
        measure=12 / 900,
        threshold=0.0,
        set_aside=False,
        message=f"about {check}",
    )
    return CheckResult(check=check, severity=severity, **{**known, **values})  # type: ignore[arg-type]


def full_section() -> ReportSection:
    aside = [(row_id, "too_short", text[:8], None) for row_id, text in enumerate(DOCS[:12])]
    changed = [
        (20 + index, "markup", f"<p>{text}</p>", text) for index, text in enumerate(DOCS[20:40])
    ]
    return replace(
        EMPTY_SECTION,
        account=(
            StepAccount(
                step="validation",
                rows_in=900,
                rows_out=888,
                set_aside=12,
                reasons={"too_short": 12},
            ),
            StepAccount(
                step="cleaning",
                rows_in=888,
                rows_out=812,
                set_aside=76,
                changed=20,
                reasons={"duplicate": 76},
            ),
        ),
        findings=(
            finding("rows.outlier", "passed", rows=0, measure=0.0, threshold=0.05),
            finding(
                "rows.too_short",
                "warning",
                set_aside=True,
                examples=(Example(row_id=7, text="Ab", detail="2"),),
            ),
            finding("rows.missing", "error"),
            finding("labels.imbalance", "warning", measure=34.2, threshold=20.0),
        ),
        sides={"train": 570, "validation": 121, "test": 121},
        set_aside=set_aside_frame("validation", aside),
        changes=set_aside_frame("cleaning", changed),
        lengths={"characters": np.arange(812), "tokens": np.arange(812) // 4},
        labels={"bug": 500, "question": 312},
        max_length=128,
        drift={"length": 0.08},
        privacy={"EMAIL": 12},
    )


def page(*sections: ReportSection, title: str = "support") -> str:
    return render(ReportData(title=title, sections=sections)).html


@cache
def full_page() -> str:
    return page(full_section())


class _Reader(HTMLParser):
    """Reads a page strictly: every tag that opens has to close, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(text: str) -> _Reader:
    text.encode()
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def visible(text: str) -> str:
    return " ".join("".join(read(text).texts).split())


def without_pictures(text: str) -> str:
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)


def test_report_has_every_section() -> None:
    shown = visible(full_page())
    headings = [
        "Account of the rows", "Findings", "Distance from the previous session", "Pictures", "Rows set aside",
        "Rows changed", "Next steps",
    ]  # fmt: skip

    assert [heading for heading in headings if heading not in shown] == []
    assert [shown.index(heading) for heading in headings] == sorted(
        shown.index(heading) for heading in headings
    )
    assert "set_aside.parquet" in shown
    assert full_page().count("<img ") == 5


def test_report_says_what_became_of_the_rows() -> None:
    shown = visible(full_page())
    assert "validation too_short 12 900 888 0 12".replace(" ", "") in shown.replace(" ", "")
    assert "Splits: train 570, validation 121, test 121." in shown


def test_report_puts_errors_before_warnings_before_passed_checks() -> None:
    shown = visible(full_page())
    positions = [
        shown.index(check)
        for check in ("rows.missing", "rows.too_short", "labels.imbalance", "rows.outlier")
    ]

    assert positions == sorted(positions)
    assert "1.33% > 0%" in shown and "34.2 > 20" in shown and "0% ≤ 5%" in shown
    assert "row 7 2 Ab" in shown.replace("\n", " ")


@pytest.mark.parametrize(
    ("severities", "stopped", "expected"),
    [
        (["warning"] * 3 + ["passed"], None, "3 warnings, no errors: 812 of 900 rows remain"),
        (["warning"], None, "1 warning, no errors: 812 of 900 rows remain"),
        (["passed"], None, "no warnings, no errors: 812 of 900 rows remain"),
        (
            ["error", "warning"],
            None,
            "1 error, 1 warning: training is refused; 812 of 900 rows would remain",
        ),
        (
            ["error"] * 2,
            None,
            "2 errors, no warnings: training is refused; 812 of 900 rows would remain",
        ),
        (
            ["passed"],
            "too few",
            "no warnings, no errors: training is refused; 812 of 900 rows would remain",
        ),
        ([], None, "no checks: 812 of 900 rows remain"),
    ],
)
def test_headline_says_whether_training_goes_on(
    severities: list[str], stopped: str | None, expected: str
) -> None:
    findings = tuple(finding("rows.empty", severity) for severity in severities)
    section = replace(
        EMPTY_SECTION, account=full_section().account, findings=findings, stopped=stopped
    )

    assert headline(section) == expected

    shown = visible(page(section))
    assert expected in shown and (stopped or "") in shown


def test_report_marks_changed_words() -> None:
    changes = set_aside_frame("cleaning", [(5, "markup", "an <b>old</b> text", "an old text")])
    text = page(replace(EMPTY_SECTION, changes=changes))
    assert "an <del>&lt;b&gt;</del>old<del>&lt;/b&gt;</del> text" in text


def test_report_samples_every_reason() -> None:
    lines = [(row_id, "duplicate", f"text {row_id}", None) for row_id in range(5_000)]
    frame = set_aside_frame("cleaning", [*lines, (9_000, "empty", "<br>", "")])

    shown = visible(page(replace(EMPTY_SECTION, set_aside=frame)))

    assert "cleaning: duplicate 5,000 rows, 10 shown" in shown
    assert "cleaning: empty 1 row" in shown
    assert "5,001 rows, some of them for each reason" in shown


def test_report_counts_the_reasons_that_it_has_no_room_for() -> None:
    frame = set_aside_frame(
        "cleaning", [(row_id, f"reason {row_id:03}", "text", None) for row_id in range(25)]
    )
    shown = visible(page(replace(EMPTY_SECTION, set_aside=frame)))
    assert "5 more rows have one of 5 other reasons." in shown


@pytest.mark.parametrize("section", [
    EMPTY_SECTION,
    replace(EMPTY_SECTION, account=(StepAccount(step="validation", rows_in=0, rows_out=0, set_aside=0),)),
    replace(EMPTY_SECTION, sides={"train": 1, "validation": 0, "test": 0}, lengths={"tokens": np.array([3])}),
    replace(EMPTY_SECTION, lengths={"tokens": np.array([])}, labels={"a": 0}, drift={"length": float("nan")}),
    replace(EMPTY_SECTION, set_aside=set_aside_frame("validation", [(1, "missing", None, None), (2, "odd", None, "b")])),
])  # fmt: skip
def test_report_of_little_is_whole(section: ReportSection) -> None:
    shown = visible(page(section))
    assert "No row was changed." in shown
    assert "No check has run." in shown
    assert ("No row was set aside." in shown) == section.set_aside.empty


def test_report_without_sections_says_so() -> None:
    assert "no rows to report on" in visible(page())


def test_report_needs_nothing_from_outside() -> None:
    text = full_page()
    reader = read(text)

    sources = [
        value or ""
        for name, value in reader.attributes
        if name in ("src", "href", "srcset", "action")
    ]

    assert sources and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not {"script", "iframe", "object", "embed", "form", "base", "link"} & set(reader.seen)
    assert "url(" not in text and "@import" not in text

    policies = [value or "" for name, value in reader.attributes if name == "content"]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policies


def hostile_section(text: str, rows: int = 2) -> ReportSection:
    """A section with `text` wherever a text can be; without rows there are hardly any pictures, which take time."""
    examples = (Example(row_id=1, text=text, detail=text),) * 9
    severities = ("error", "warning", "passed")
    findings = [finding(text, severity, message=text, examples=examples) for severity in severities]
    lines = [(1, text, text, None), (2, "other", text, f"{text} {text}"), (3, "gone", None, text)]
    return ReportSection(
        name=text,
        account=(
            StepAccount(step=text, rows_in=rows, rows_out=rows, set_aside=0, reasons={text: 1}),
        ),
        findings=tuple(findings),
        sides={text: rows},
        set_aside=set_aside_frame(text, lines),
        changes=set_aside_frame(text, lines),
        lengths={text: np.arange(rows)},
        labels={text: rows},
        max_length=3,
        drift={text: 0.5},
        privacy={text: rows},
        stopped=text,
    )


@pytest.mark.parametrize(
    "text",
    [SCRIPT, '"><img src=x onerror=alert(1)>', "</style></title>'", "{{ 7 * 7 }}{% raw %}", "&lt;"],
)
def test_report_shows_markup_as_text(text: str) -> None:
    reader = read(page(hostile_section(text), title=text))
    assert text in "".join(reader.texts)
    assert "script" not in reader.seen
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert reader.seen.count("img") == 5


@settings(max_examples=10, deadline=None)
@given(st.text(st.characters(), max_size=30), st.text("<>&\"'/=! a-", max_size=40))
def test_report_of_any_text_is_well_formed(any_text: str, markup: str) -> None:
    for text in (any_text, markup):
        assert "script" not in read(page(hostile_section(text, rows=0), title=text)).seen


@pytest.mark.parametrize(
    "text", ["x" * 200_000, '"' * 200_000, "\0\ud800" * 100_000, "word <b> " * 40_000]
)
def test_report_stays_short_whatever_the_texts(text: str) -> None:
    duplicates = [(row_id, "duplicate", text, None) for row_id in range(300)]
    changed = [(row_id, "markup", text, text[::-1]) for row_id in range(300)]
    labels = {f"label {index}": index for index in range(10_000)}
    base = hostile_section(text)
    section = replace(
        base,
        findings=base.findings * 9,
        set_aside=set_aside_frame("cleaning", duplicates),
        changes=set_aside_frame("cleaning", changed),
        labels=labels,
    )

    report = page(section)

    assert len(without_pictures(report).encode()) < 500_000


def test_report_of_a_large_session_stays_short() -> None:
    texts = [" ".join(DOCS[index : index + 5]) for index in range(len(DOCS))]
    lines = [
        (index, f"reason {index % 9}", f"<p>{text}\n", text.lower())
        for index, text in enumerate(texts)
    ]
    frame = set_aside_frame("cleaning", lines * 100)
    examples = [Example(row_id=row_id, text=text) for row_id, text in enumerate(texts)]
    checks = [
        finding(f"rows.check{index}", "warning", examples=tuple(examples[index : index + 5]))
        for index in range(27)
    ]
    section = replace(full_section(), findings=tuple(checks), set_aside=frame, changes=frame)

    report = page(section, replace(section, name="llm"))

    assert len(without_pictures(report).encode()) < 200_000


def test_report_is_the_same_each_time() -> None:
    assert page(full_section()) == full_page()


def test_report_leads_to_each_of_its_sections() -> None:
    reader = read(page(EMPTY_SECTION, replace(EMPTY_SECTION, name="llm")))
    ids = [value for name, value in reader.attributes if name == "id"]

    assert [value for name, value in reader.attributes if name == "href"] == [
        f"#{element_id}" for element_id in ids
    ]
    assert len(ids) == 2
