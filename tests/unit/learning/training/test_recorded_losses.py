"""Three tiny trainings have the losses that the engine had before it used automatic optimisation.

The values were recorded with manual optimisation (version 0.3, November 2026) by
`python -m tests.unit.learning.training.test_recorded_losses`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.families import embedding_folder, language_folder

from tunetrail.config import TrainingConfig
from tunetrail.config.training import BatchesConfig, GuardsConfig, OptimizerConfig
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample
from tunetrail.learning.training_plan import TrainingPlan

CURVES = ("train/loss", "train/gradient_norm", "train/learning_rate", "val/loss")
RECORDED = Path(__file__).with_name("recorded_losses.json")

PAIRS = [
    {
        "anchor": f"question {row} {'why ' * (row % 5)}",
        "positive": f"the answer is {row * 7}",
        "negative": "no" * (row % 2),
    }
    for row in range(26)
]
SCORES = [
    {
        "sentence1": f"text {row} {'a ' * (row % 5)}",
        "sentence2": f"word {row * 7}",
        "score": row / 26,
    }
    for row in range(26)
]


def example(row: int) -> TokenizedExample:
    tokens = [3 + (row * 31 + place * place) % 250 for place in range(4 + row * 5 % 17)]
    return TokenizedExample(
        input_ids=[*tokens, 2],
        labels=[IGNORED, *tokens[1:], 2],
        supervised_bytes=0,
        truncated=False,
        weight=0.5 + row % 3,
    )


def curves(run: str, folder: Path) -> dict[str, list[list[float]]]:
    """Train for three epochs of seven batches, the last of which is short."""
    training = TrainingConfig(
        batch_size=4,
        num_epochs=3,
        warmup_steps=3,
        learning_rate=0.05,
        schedule="cosine",
        max_grad_norm=0.5,
        # Adam would move gradients of rounding alone, as of the keys' biases, by its full rate.
        optimizer=OptimizerConfig(name="sgd", momentum=0.5),
        logging_steps=1,
        early_stopping_patience=0,
        validations_per_epoch=1,
        batches=BatchesConfig(accumulate={"pairs": 1, "scores": 3, "answers": 2}[run]),
        guards=GuardsConfig(preflight=False),
    )
    common: dict[str, Any] = {"batch_size": 4, "batches": training.batches, "seed": 3}
    settings: dict[str, Any] = {
        "optimization": optimization_settings(training),
        "seed": 3,
    }

    module: Any
    data: Any
    if run == "answers":
        path = language_folder(folder / "llama", "llama")
        examples = list(map(example, range(26)))
        module = LanguageModelModule(model=path, pad_token_id=1, **settings)
        data = LanguageModelDataModule(train=examples, validation=examples[:9], **common)
    else:
        shape, records = ("pair", PAIRS) if run == "pairs" else ("score", SCORES)
        path = embedding_folder(folder / "bert", "bert")
        module = EmbeddingModule(model=path, shape=shape, loss="auto", max_length=64, **settings)
        # Recorded when validations had the batch size of the training.
        data = EmbeddingDataModule(
            train=records, validation=records[:9], shape=shape, validation_rows=4, **common
        )

    plan = TrainingPlan(folder=folder / run, on_metrics=lambda metrics, step: None)
    history = fit(module, data, training, plan, seed=3).history
    return {name: [list(point) for point in history[name]] for name in CURVES}


@pytest.mark.parametrize("run", ["pairs", "scores", "answers"])
def test_a_training_has_its_recorded_curves(run: str, tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[run]

    trained = curves(run, tmp_path)

    for name in CURVES:
        assert [step for step, _ in trained[name]] == [step for step, _ in recorded[name]]
        values = [value for _, value in trained[name]]
        assert values == pytest.approx([value for _, value in recorded[name]], rel=1e-5)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        runs = {run: curves(run, Path(folder) / run) for run in ("pairs", "scores", "answers")}
    RECORDED.write_text(json.dumps(runs) + "\n", encoding="utf-8")
