"""Quality of trained models: rank correlation, nearest neighbours, exact answers. Each in a fresh process."""

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.engine.rows import Row, load_rows

_NEIGHBOURS = 5
_BATCH_SIZE = 16
_NEW_TOKENS = 256
_ANSWER = re.compile(r"####\s*([-+]?[\d,]*\.?\d+)")
"""GSM8K's mark of the final number."""


def train_and_score(
    *,
    train: str,
    task: dict[str, Any],
    arguments: dict[str, Any],
    measure: dict[str, Any],
    folder: str,
) -> dict[str, Any]:
    """Train by a function of this package, and score the trained model.

    Args:
        train: `module:function`.
        task: `Task.to_dict()`.
        arguments: Further keywords of the function.
        measure: Keywords of `score_model`.
        folder: For both.
    """
    module, _, name = train.partition(":")
    kept = str(Path(folder) / "kept")
    found = getattr(importlib.import_module(module), name)(
        task=task, folder=folder, keep=kept, **arguments
    )
    return {**found, **score_model(model=kept, measure=measure, folder=folder)}


def score_model(*, model: str, measure: dict[str, Any], folder: str) -> dict[str, Any]:
    """Score the model of a folder on the rows of the JSONL file `measure["test"]`; return `score`, 0 to 1.

    `measure["kind"]` is `spearman` (of the cosine with the score of a pair), `neighbours` (accuracy
    of the label that most of the five nearest rows of `measure["neighbours"]` have) or
    `exact_match` (of the number that an answer ends with, greedy).
    """
    rows = load_rows(measure["test"])
    score = MEASURES[measure["kind"]](model, rows, measure)
    return {"score": float(score)}


def _spearman(model: str, rows: Sequence[Row], measure: dict[str, Any]) -> float:
    from scipy.stats import spearmanr

    one, other = (
        _vectors(model, [row[name] for row in rows], measure) for name in ("sentence1", "sentence2")
    )
    return float(spearmanr((one * other).sum(axis=1), [row["score"] for row in rows]).statistic)


def _neighbours(model: str, rows: Sequence[Row], measure: dict[str, Any]) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    known = load_rows(measure["neighbours"])
    classifier = KNeighborsClassifier(n_neighbors=min(_NEIGHBOURS, len(known)), metric="cosine")
    classifier.fit(
        _vectors(model, [row["text"] for row in known], measure), [row["label"] for row in known]
    )
    return float(
        classifier.score(
            _vectors(model, [row["text"] for row in rows], measure), [row["label"] for row in rows]
        )
    )


def _vectors(model: str, texts: list[str], measure: dict[str, Any]) -> Any:
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, device="cpu", local_files_only=True)
    loaded.max_seq_length = measure["max_length"]
    return loaded.encode(texts, normalize_embeddings=True, show_progress_bar=False)


def _exact_match(model: str, rows: Sequence[Row], measure: dict[str, Any]) -> float:
    import torch

    from tunetrail.learning.language_model.module import load_language_model, load_tokenizer

    loaded, tokenizer = load_language_model(model).eval(), load_tokenizer(model)
    tokenizer.padding_side = "left"
    right = 0
    for start in range(0, len(rows), _BATCH_SIZE):
        part = rows[start : start + _BATCH_SIZE]
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": row["input"]}],
                tokenize=False,
                add_generation_prompt=True,
            )
            for row in part
        ]
        batch = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            written = loaded.generate(**batch, do_sample=False, max_new_tokens=_NEW_TOKENS)
        answers = tokenizer.batch_decode(
            written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        right += sum(
            is_right(answer, row["output"]) for answer, row in zip(answers, part, strict=True)
        )
    return right / len(rows)


def is_right(answer: str, solution: str) -> bool:
    """Whether an answer ends with the solution's number: after `####`, or else its last number."""
    wanted, found = final_number(solution), final_number(answer)
    return wanted is not None and wanted == found


def final_number(text: str) -> float | None:
    """Return the number after `####`, or else the last number of the text, None without any."""
    marked = _ANSWER.findall(text) or re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", text)
    return float(marked[-1].replace(",", "")) if marked else None


MEASURES: dict[str, Callable[[str, Sequence[Row], dict[str, Any]], float]] = {
    "spearman": _spearman,
    "neighbours": _neighbours,
    "exact_match": _exact_match,
}
