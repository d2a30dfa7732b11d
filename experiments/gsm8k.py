"""Trains SmolLM2-135M on problems of GSM8K, and scores what it writes to problems of the dev file.

The data isn't part of the project: `--data` is a folder with `train.jsonl` and `dev.jsonl` of
openai/grade-school-math. Answers are written in padded batches, and some of them one by one; then
all rows are read once more, packed and padded, to see whether each written token is the likeliest.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunetrail.config import (
    AdapterConfig,
    EvaluationConfig,
    GenerationConfig,
    LanguageModelConfig,
    TrainingConfig,
)
from tunetrail.evaluation.answers import WRITTEN, answer_sentence, answer_summary
from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.scores import Scores
from tunetrail.learning.language_model.forward import build_forward, concatenating
from tunetrail.learning.language_model.learner import LanguageModel, LanguageModelLearner
from tunetrail.learning.models.catalog import LANGUAGE_MODELS, resolve_model
from tunetrail.learning.tokens.chat import tokenize_record
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline.answers import add_answers
from tunetrail.pipeline.scoring import score_language_model

PATTERN = r"#### (\S+)"
"""What an exact match compares: the result, which ends each answer of GSM8K."""
_CALCULATION = re.compile(r"<<[^>]*>>")

Record = Mapping[str, Any]


def read_records(path: Path, rows: int) -> list[Record]:
    """Return the first rows of a file as inputs and outputs, without the calculator's notes."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines()[:rows]:
        problem = json.loads(line)
        answer = _CALCULATION.sub("", problem["answer"])
        records.append({"input": problem["question"], "output": answer})
    return records


def train(
    learner: LanguageModelLearner, path: str, records: Sequence[Record]
) -> tuple[LanguageModel, int]:
    """Return the model after a training on records, and the number of its steps."""
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingPlan(
            folder=Path(folder), on_metrics=lambda metrics, step: None, validate=False
        )
        model, result = learner.train(path, records, [], learner.config.training, plan)
    return model, result.steps


def scored(
    learner: LanguageModelLearner,
    model: LanguageModel,
    records: Sequence[Record],
    config: EvaluationConfig,
) -> Scores:
    """Return the scores of a model, with the scores of its answers to all records."""
    started = time.perf_counter()
    scores = score_language_model(learner, model, records, [], config)
    scores = add_answers(learner, model, records, scores, config)
    print(f"  {time.perf_counter() - started:.0f} s for {len(records)} rows", flush=True)
    return scores


def equal_answers(
    learner: LanguageModelLearner,
    model: LanguageModel,
    records: Sequence[Record],
    answers: Sequence[str],
    max_new_tokens: int,
) -> int:
    """Return how many answers are the same if each is written by itself."""
    single = learner.write_answers(model, records, max_new_tokens=max_new_tokens, batch_size=1)
    return sum(map(str.__eq__, answers, map(str, single)))


def likeliest_tokens(
    model: LanguageModel, records: Sequence[Record], max_length: int, padding_free: bool
) -> list[int]:
    """Return how many tokens of each record's output are the likeliest ones, eight rows at once."""
    examples = [tokenize_record(model.tokenizer, record, max_length) for record in records]
    forward = build_forward(
        model.model, int(model.tokenizer.pad_token_id), padding_free=padding_free
    )
    hits: list[int] = []
    with torch.inference_mode(), concatenating(model.model) if padding_free else nullcontext():
        for start in range(0, len(examples), 8):
            scores, _ = forward.token_scores(examples[start : start + 8], [])
            hits += scores[:, 2].int().tolist()
    return hits


def main() -> None:
    """Train, write and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of GSM8K's JSONL files")
    train_help = "rows to learn from; with 0, the base model answers alone"
    parser.add_argument("--train-rows", type=int, default=128, help=train_help)
    parser.add_argument("--dev-rows", type=int, default=48, help="rows to answer")
    parser.add_argument("--single-rows", type=int, default=8, help="rows to answer one by one, too")
    parser.add_argument("--tokens", type=int, default=112, help="longest answer")
    arguments = parser.parse_args()

    training = TrainingConfig(batch_size=8, num_epochs=1, warmup_steps=2, learning_rate=5e-4)
    config = LanguageModelConfig(
        max_length=384, adapter=AdapterConfig(rank=16, alpha=32), training=training
    )
    learner = LanguageModelLearner(config=config, seed=0)
    path = resolve_model("smollm2-135m", LANGUAGE_MODELS).path
    dev = read_records(arguments.data / "dev.jsonl", arguments.dev_rows)
    generation = GenerationConfig(rows=len(dev), max_new_tokens=arguments.tokens, pattern=PATTERN)
    evaluation = EvaluationConfig(batch_size=16, generation=generation)

    print("base model", flush=True)
    model = learner.load(path)
    before = after = scored(learner, model, dev, evaluation)

    if arguments.train_rows:
        started = time.perf_counter()
        records = read_records(arguments.data / "train.jsonl", arguments.train_rows)
        model, steps = train(learner, path, records)
        print(f"{steps} steps on {len(records)} rows: {time.perf_counter() - started:.0f} s")
        after = scored(learner, model, dev, evaluation)
    intervals = [
        metric_intervals(scores, bootstrap_samples=10_000, confidence=0.95, seed=0)
        for scores in (before, after)
    ]
    summary = answer_summary(before, after, *intervals, 0.95)
    if summary is not None:
        print(answer_sentence(summary))
        print(json.dumps(summary, indent=1))
    for name in ("bits_per_byte", "bits_per_byte_text", "token_accuracy"):
        print(f"{name} {before.metrics[name]:.4f} -> {after.metrics[name]:.4f}")

    answers = after.per_example[WRITTEN].tolist()
    few = min(arguments.single_rows, len(dev))
    same = equal_answers(learner, model, dev[:few], answers[:few], arguments.tokens)
    print(f"one by one: {same} of {few} answers are the same as in batches of 16", flush=True)

    written = [
        {**record, "output": answer} for record, answer in zip(dev, answers, strict=True) if answer
    ]
    packed, padded = (
        likeliest_tokens(model, written, config.max_length, padding_free)
        for padding_free in (True, False)
    )
    scores = score_language_model(learner, model, written, [], replace(evaluation, batch_size=8))
    tokens = int(scores.per_example["tokens"].sum())
    print(f"likeliest of {tokens} written tokens: {sum(packed)} packed, {sum(padded)} padded;")
    print(f"rows with equal counts: {sum(map(int.__eq__, packed, padded))} of {len(written)}")
    for record, answer in list(zip(dev, answers, strict=True))[:3]:
        print(json.dumps({"expected": record["output"], "written": answer}))


if __name__ == "__main__":
    main()
