"""Cleaning and scrubbing of texts as people bring them: what must go, and what must stay."""

# ruff: noqa: RUF001 -- texts of many languages
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.config import (
    CleaningConfig,
    PreparationConfig,
    PrivacyConfig,
    SplitConfig,
    ValidationConfig,
)
from tunetrail.data.cleaning import clean_rows, clean_text
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.flow.prepared import claim_folder
from tunetrail.data.privacy import Scrubber
from tunetrail.data.rows import rows_frame
from tunetrail.errors import ConfigError
from tunetrail.samples import Sample, SampleKind, parse_sample

SCRUBBER = Scrubber(PrivacyConfig())
PAGE = (
    "<!DOCTYPE html>\n<html><head><title>Clock</title>\n<script>\nsetInterval(tick, 1000)\n</script>"
    "</head>\n<body><div id='clock'></div></body></html>"
)


def completions(*contents: tuple[str, str]) -> pd.DataFrame:
    samples: list[tuple[int, Sample]] = []
    for row_id, (question, answer) in enumerate(contents):
        content: dict[str, Any] = {"input": question, "output": answer}
        samples.append((row_id, Sample(kind=SampleKind.LLM, shape="completion", content=content)))
    return rows_frame(samples)


@pytest.mark.parametrize(
    "text",
    [
        '<button type="button" class="save">Save</button>',
        PAGE,
        "<input>3 4</input><output>7</output>",
        "<summary>The council met and agreed on the new budget.</summary>",
        "<label>positive</label>",
        "<article>The council met today.</article>\nSummarise the article in one sentence.",
        "<s>[INST] Say <b>hello</b> to all of them. [/INST] Hello to all of you.</s>",
        "<|im_start|>user\nWhat is <i>that</i> for?<|im_end|>",
        "<think>They <b>ask</b> for the time.</think>It is noon now.",
        "<form><label>Your name</label><input name='a'><button>Send it now</button></form>",
        "# Notes\n\nThe <b>first</b> line is here.\n",
        "| a | b |\n|---|---|\n| one<br>two | three |",
        "A line with a hard break  \nand the line after it.",
        "diff --git a/x b/x\n@@ -1,2 +1,2 @@\n-<b>old words of it</b> \n \n+<b>new words of it</b> ",
        "2023-10-05 10:00:00 the page <b>index</b> was sent to them",
        "$ echo '<b>hello to you</b>'\n<b>hello to you</b>",
    ],
)
def test_text_that_is_not_prose_in_html_stays(text: str) -> None:
    # White space around a text isn't part of it.
    assert clean_text(text, CleaningConfig())[0] == text.strip()


def test_a_page_stays_in_a_row_that_asks_for_html() -> None:
    page = "<html><body><h1>Welcome to my garden</h1><p>Here are all my roses.</p></body></html>"
    rows = completions(("Write an HTML page on roses.", page), ("What is on the page?", page))

    cleaned = clean_rows(rows, CleaningConfig()).rows["output"].tolist()

    assert cleaned == [page, "Welcome to my garden\n\nHere are all my roses."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So ends page one.\fChapter two", "So ends page one.\nChapter two"),
        ("first\u000bsecond", "first\nsecond"),
        ("col1\u001fcol2", "col1 col2"),
        ("one\u0085two\u2028three\u2029four", "one\ntwo\nthree\nfour"),
        ("first\u001csecond\u001dthird\u001efourth", "first\nsecond\nthird\nfourth"),
        ("name\0value", "name value"),
        ("h\0e\0l\0l\0o\0", "hello"),
        ("don\x92t", "don\u2019t"),
        ("\x1b[31merror\x1b[0m: \x1b]0;title\x07no such file", "error: no such file"),
        ("N\bNA\bAM\bME\bE", "NAME"),
        ("ไทย\u200bไทย", "ไทย\u200bไทย"),
    ],
)
def test_control_characters_join_no_words(text: str, expected: str) -> None:
    assert clean_text(text, CleaningConfig())[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "请把订单号发到客服邮箱help@shop.example.com我们会在三天内处理。",
            "请把订单号发到客服邮箱[EMAIL]我们会在三天内处理。",
        ),
        ("메일은 help@shop.example.com으로 보내세요", "메일은 [EMAIL]으로 보내세요"),
        ("ส่งไปที่help@shop.example.comนะครับ", "ส่งไปที่[EMAIL]นะครับ"),
        ("卡号4111111111111111已冻结", "卡号[CARD]已冻结"),
        ("карта4111111111111111заблокирована", "карта[CARD]заблокирована"),
        ("服务器地址是203.0.113.77请检查", "服务器地址是[IP_ADDRESS]请检查"),
        ("電話番号は03-1234-5678です", "電話番号は[PHONE]です"),
        ("電話番号は０３－１２３４－５６７８です", "電話番号は[PHONE]です"),
        ("رقم +٩٦٦ ٥٠ ١٢٣ ٤٥٦٧", "رقم [PHONE]"),
        ("账户DE89370400440532013000已开", "账户[IBAN]已开"),
        ("Desk: +1-604-555-0142x565", "Desk: [PHONE]"),
        ("my card 501800000108", "my card [CARD]"),
        ("Liga no (11) 97113-8192", "Liga no [PHONE]"),
        ("My password is Tr0ub4dor&3, use it.", "My password is [SECRET], use it."),
        ("pw: Tr0ub4dor&3", "pw: [SECRET]"),
        ("Mein Passwort lautet Tr0ub4dor&3.", "Mein Passwort lautet [SECRET]."),
        ("Le mot de passe est Tr0ub4dor&3", "Le mot de passe est [SECRET]"),
        ("Mi contraseña es Tr0ub4dor&3.", "Mi contraseña es [SECRET]."),
        ("A minha senha é Tr0ub4dor&3.", "A minha senha é [SECRET]."),
        ("密码是Tr0ub4dor&3，请使用", "密码是[SECRET]，请使用"),
        ("パスワードは「Tr0ub4dor&3」です", "パスワードは「[SECRET]」です"),
        ("Мой пароль Tr0ub4dor&3, не забудь", "Мой пароль [SECRET], не забудь"),
    ],
)
def test_personal_data_goes_in_every_script(text: str, expected: str) -> None:
    assert SCRUBBER.scrub(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "clientSecret: process.env.SHOP_CLIENT_SECRET,",
        "api_key=settings.WEB_API_KEY,",
        "secret_key=os.environ['SHOP_KEY_2']",
        "password={{ secrets.DB_PASS_1 }}",
        "password: ${DB_PASS1}",
        "password: None",
        "The password must be at least 8 characters long.",
        "The password is SHA-256 hashed.",
        "2250000000069 * 2 = 4500000000138",
        "Block blk_-4611000000000000109 failed.",
        "The next call 2023-10-05 is at noon.",
        "commit 9f8e7d6c5b4a39281f2e3d4c5b6a79881f2e3d4c",
        "id 123e4567-e89b-42d3-a456-426614174000, ISBN 978-3-16-148410-0",
    ],
)
def test_what_only_looks_personal_stays(text: str) -> None:
    assert SCRUBBER.scrub(text) == (text, {})


def test_a_password_of_one_cell_goes_in_the_others_and_in_the_account() -> None:
    rows = completions(("I log in with Tr0ub4dor&3 here.", "My password is Tr0ub4dor&3."))

    result = clean_rows(rows, CleaningConfig())

    assert result.rows["input"].tolist() == ["I log in with [SECRET] here."]
    assert "Tr0ub4dor" not in str(result.changes.values.tolist())


_PIECES = st.sampled_from(
    ["<p>", "</p>", "<b>", "</b>", "<br>", "&eacute;", "e&#769;", "&amp;", "word and more ", " ", "  \n",
     "\n", "\t", "\f", "\x1b[1m", "\b", "\0", "a@b.io", "My password is Tr0ub4dor&3.", "schÃ¶n", "\r", "# ",
     "```\n", "4111111111111111", "密码", "<input>", "\u0301", "x = f(y)\n"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(_PIECES, max_size=12).map("".join))
def test_cleaning_a_cleaned_text_changes_nothing(text: str) -> None:
    once = clean_rows(completions((f"{text}a", f"b{text}")), CleaningConfig()).rows
    again = clean_rows(once, CleaningConfig())

    assert again.rows["input"].tolist() == once["input"].tolist()
    assert again.rows["output"].tolist() == once["output"].tolist()
    assert len(again.changes) == 0


@pytest.mark.parametrize(
    ("pages", "severity"), [(0, "passed"), (1, "passed"), (8, "warning"), (40, "warning")]
)
def test_texts_that_cleaning_halves_are_a_finding(
    tmp_path: Path, pages: int, severity: str
) -> None:
    rows = []
    for number in range(40):
        sentence = f"Order {number} was sent on a {number * 7} day trip, and it arrived in time."
        markup = '<div class="wide"><p style="color: grey; margin: 0; padding: 0">'
        page = f"{markup * 3}{sentence}{'</p></div>' * 3}"
        rows.append({"text": page if number < pages else sentence})
    samples = [parse_sample(row, SampleKind.EMBEDDING) for row in rows]
    frame = rows_frame(list(enumerate(samples)))
    steps = ChunkSteps(
        kind=SampleKind.EMBEDDING, validation=ValidationConfig(), cleaning=CleaningConfig()
    )
    config = PreparationConfig(workers=1, cache_gigabytes=0.0)
    preparation = Preparation(steps=steps, split=SplitConfig(), config=config, seed=0)

    session = preparation.run([frame], tmp_path / "prepared")

    finding = next(finding for finding in session.findings if finding.check == "rows.shrunk")
    assert finding.rows == pages and finding.severity == severity
    assert pages == 0 or "markup removed" in finding.message


def test_a_preparation_takes_no_folder_with_files_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.parquet").write_text("x")

    with pytest.raises(ConfigError, match="output_dir must be a new folder"):
        claim_folder(tmp_path)

    assert (tmp_path / "rows" / "train.parquet").read_text() == "x"


def test_a_preparation_follows_no_links_and_takes_its_own_folder_again(tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    claim_folder(folder)
    (folder / "report.html").write_text("an earlier one")
    claim_folder(folder)

    (folder / "summary.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="with a link of another origin"):
        claim_folder(folder)
