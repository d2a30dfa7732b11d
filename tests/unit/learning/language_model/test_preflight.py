from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tunetrail.config import TrainingConfig
from tunetrail.errors import ConfigError, SampleError, TrainingError, TunetrailError
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule, PreferencePair
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.language_model.preflight import LANGUAGE_MODEL_CHECKS, marked
from tunetrail.learning.preflight.findings import PreflightReport, Severity
from tunetrail.learning.tokens.chat import (
    IGNORED,
    TokenizedExample,
    completions_of,
    tokenize_record,
)
from tunetrail.learning.training_plan import TrainingPlan

TRAINING = TrainingConfig(max_steps=1, warmup_steps=0, early_stopping_patience=0)
CHAT = {
    "messages": [
        {"role": "user", "content": "é"},
        {"role": "assistant", "content": "日本"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "no"},
    ]
}
RECORDS: list[dict[str, Any]] = [
    {"input": "What is 2 + 2?", "output": "4"},
    {"input": "Say hello.", "output": "Hello there, and a good day to you!"},
    {"text": "A short story."},
    CHAT,
]


def examples(path: str, records: Any = RECORDS, max_length: int = 256) -> list[TokenizedExample]:
    tokenizer = load_tokenizer(path)
    return [tokenize_record(tokenizer, record, max_length) for record in records]


def load_module(path: str, **settings: Any) -> LanguageModelModule:
    optimization = optimization_settings(TRAINING)
    return LanguageModelModule(model=path, optimization=optimization, **settings)


def fit_and_check(
    module: LanguageModelModule, folder: Path, items: list[Any], **data: Any
) -> PreflightReport:
    batches = LanguageModelDataModule(train=items, validation=items, batch_size=4, **data)
    plan = TrainingPlan(folder=folder, on_metrics=lambda metrics, step: None)
    result = fit(module, batches, TRAINING, plan, seed=0, checks=LANGUAGE_MODEL_CHECKS)
    assert result.preflight is not None
    return result.preflight


def checked(path: str, folder: Path, items: list[Any], **data: Any) -> PreflightReport:
    return fit_and_check(load_module(path), folder, items, **data)


def refused(
    path: str, folder: Path, items: list[Any], kind: type[TunetrailError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        checked(path, folder, items)
    assert not list(folder.rglob("*.ckpt"))  # nothing was trained


def warnings(report: PreflightReport) -> dict[str, str]:
    return {finding.name: finding.message for finding in report.of(Severity.WARNING)}


def test_preflight_is_silent_on_good_rows(
    tiny_language_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = checked(tiny_language_model, tmp_path, examples(tiny_language_model))
    assert {finding.severity for finding in report.findings} == {Severity.OK}
    assert len(report.findings) == 9
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_preview_marks_what_is_learnt(tiny_language_model: str, tmp_path: Path) -> None:
    report = checked(tiny_language_model, tmp_path, examples(tiny_language_model))
    assert "What is 2 + 2?<|end|>\n<|start|>assistant\n[[4<|end|>]]" in report.preview
    assert "Example 0 (2 of " in report.preview and "Example 1 (" in report.preview
    tokenizer = load_tokenizer(tiny_language_model)
    text = marked(tokenizer, examples(tiny_language_model, [CHAT])[0])
    assert "[[日本<|end|>]]" in text and "[[no<|end|>]]" in text and text.count("[[") == 2


def test_preview_shows_both_answers_of_a_preference(
    tiny_language_model: str, tmp_path: Path
) -> None:
    record = {"prompt": "Which?", "chosen": "This one.", "rejected": "That."}
    chosen, rejected = examples(tiny_language_model, completions_of(record))
    pair = PreferencePair(chosen=chosen, rejected=rejected, reference=(-40.0, -30.0))
    report = checked(tiny_language_model, tmp_path, [pair, pair])
    assert warnings(report) == {}
    assert "Example 0, chosen (" in report.preview and "[[This one.<|end|>]]" in report.preview
    assert "Example 0, rejected (" in report.preview and "[[That.<|end|>]]" in report.preview


def test_preview_leaves_out_the_middle_of_long_examples(
    tiny_language_model: str, tmp_path: Path
) -> None:
    module_limit = 512
    long = examples(tiny_language_model, [{"input": "x", "output": "日" * 2000}], module_limit)
    report = checked(tiny_language_model, tmp_path, [*long, *examples(tiny_language_model)])
    assert len(report.preview) < 5000


def test_preflight_refuses_rows_that_teach_nothing(
    tiny_language_model: str, tmp_path: Path
) -> None:
    silent = [
        replace(each, labels=[IGNORED] * len(each.labels)) for each in examples(tiny_language_model)
    ]
    refused(
        tiny_language_model,
        tmp_path,
        silent,
        SampleError,
        "No token of the rows is learnt. Raise llm.max_length",
    )


def test_preflight_warns_of_rows_that_teach_little(
    tiny_language_model: str, tmp_path: Path
) -> None:
    items = examples(tiny_language_model, [{"input": "x" * 450, "output": "y"}] * 4, 512)
    report = checked(tiny_language_model, tmp_path, items)
    assert warnings(report) == {"supervised tokens": "0.424 % of the tokens are learnt."}


def test_preflight_counts_rows_that_were_left_out(tiny_language_model: str, tmp_path: Path) -> None:
    report = checked(tiny_language_model, tmp_path, examples(tiny_language_model), left_out=3)
    assert "left out: 3 rows whose output is empty" in warnings(report)["supervised tokens"]


def test_preflight_warns_where_the_end_is_not_learnt(
    tiny_language_model: str, tmp_path: Path
) -> None:
    end = load_tokenizer(tiny_language_model).eos_token_id

    def endless(example: TokenizedExample) -> TokenizedExample:
        return replace(
            example, labels=[IGNORED if label == end else label for label in example.labels]
        )

    good = examples(tiny_language_model)
    report = checked(tiny_language_model, tmp_path / "one", [endless(good[1]), *good[:1]])
    assert warnings(report)["end of sequence"].startswith(
        "50 % of what is learnt doesn't end with a token at which"
    )
    assert "<|end|>" in warnings(report)["end of sequence"]
    # one turn of a chat is enough
    chat = good[3]
    turn = chat.labels.index(end)
    labels = [IGNORED if place == turn else label for place, label in enumerate(chat.labels)]
    report = checked(tiny_language_model, tmp_path / "turn", [replace(chat, labels=labels)])
    assert warnings(report)["end of sequence"].startswith("50 %")


def test_preflight_does_not_ask_for_the_end_of_rows_that_are_cut_off(
    tiny_language_model: str, tmp_path: Path
) -> None:
    cut = examples(tiny_language_model, [{"text": "a story " * 20}], 64)
    assert cut[0].truncated
    report = checked(
        tiny_language_model, tmp_path / "some", [*cut, *examples(tiny_language_model) * 3]
    )
    assert warnings(report) == {}
    report = checked(tiny_language_model, tmp_path / "all", cut * 2)
    assert "Every row is cut off" in warnings(report)["end of sequence"]
    assert warnings(report)["lengths"].startswith("up to 64 tokens; 100 % of the rows are cut off")


def test_preflight_refuses_rows_that_are_longer_than_the_model(
    tiny_language_model: str, tmp_path: Path
) -> None:
    items = [
        *examples(tiny_language_model),
        *examples(tiny_language_model, [{"text": "a" * 600}], 1000),
    ]
    message = r"llm\.max_length must be at most the model's 512 positions: 1 of 5 rows are longer, up to 601 tokens"
    refused(tiny_language_model, tmp_path, items, ConfigError, message)


def test_preflight_refuses_examples_that_see_each_other(
    tiny_language_model: str, tmp_path: Path, replace_segment_attention: Callable[[Any], None]
) -> None:
    def blind(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, None]:
        shared = query.shape[1] != key.shape[1]
        attended = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=shared
        )
        return attended.transpose(1, 2), None

    module = load_module(tiny_language_model)
    replace_segment_attention(blind)

    with pytest.raises(
        TrainingError, match=r"differ in their loss from one by one, by .*: they see each other\."
    ):
        fit_and_check(module, tmp_path, examples(tiny_language_model))


def test_packing_is_checked_where_rows_are_padded_too(
    tiny_language_model: str, tmp_path: Path
) -> None:
    module = load_module(tiny_language_model, padding_free=False)

    report = fit_and_check(module, tmp_path, examples(tiny_language_model), padded=True)

    assert warnings(report) == {}


def test_preflight_refuses_a_broken_model(tiny_language_model: str, tmp_path: Path) -> None:
    module = load_module(tiny_language_model)
    module.model.model.norm.weight.data.fill_(float("nan"))

    with pytest.raises(
        TrainingError, match=r"train/loss must be finite, got nan before the first step"
    ):
        fit_and_check(module, tmp_path, examples(tiny_language_model))
