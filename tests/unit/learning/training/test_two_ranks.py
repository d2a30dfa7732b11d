"""Two processes that share a training out (DDP through gloo) have the losses and weights of one."""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from tests.families import assert_close, embedding_folder, language_folder
from tests.ranks import run_ranks

from tunetrail.config.loss_choice import resolve_loss
from tunetrail.config.losses import LOSSES
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.encoder import encode_texts
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.language_model.data import (
    JudgedAnswer,
    LanguageModelDataModule,
    PreferencePair,
)
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample
from tunetrail.learning.training.ranks import encoded_by_all_ranks, leave_the_ranks
from tunetrail.learning.training.records import Refresh
from tunetrail.pipeline.mining import remembered

# Every loss there is, on two ranks.
pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

ROWS = 25
NUMBERS = range(ROWS)
SCORES = [
    {"sentence1": f"text {'a ' * (n % 5)}", "sentence2": f"other {n * 7}", "score": n / ROWS}
    for n in NUMBERS
]
SAME_OR_DIFFERENT = [{**row, "score": float(n % 2)} for n, row in enumerate(SCORES)]
PAIRS = [
    {
        "anchor": f"question {n} {'a ' * (n % 4)}",
        "positive": f"answer {n * 7}",
        "negative": "no" * (n % 2),
    }
    for n in NUMBERS
]
PAIRS_WITHOUT_NEGATIVES = [{**row, "negative": ""} for row in PAIRS]
TRIPLETS = [{**row, "negative": f"no {'o' * (n % 6)}"} for n, row in enumerate(PAIRS)]
TEXTS = [f"text {n} {'a ' * (n % 7)}" for n in NUMBERS]
LABELS = [{"text": f"text {n} {'a ' * (n % 4)}", "label": f"label {n % 3}"} for n in NUMBERS]


def vector(number: int, dimensions: int) -> list[float]:
    """Return a vector that differs from number to number."""
    return [math.sin(number * 7 + place) for place in range(dimensions)]


VECTORS = [{"text": text, "embedding": vector(n, 32)} for n, text in enumerate(TEXTS)]
SCORED_TRIPLETS = [
    {**row, "teacher_scores": np.array(vector(n, 2))} for n, row in enumerate(TRIPLETS)
]
GUIDED_PAIRS = [
    {
        **row,
        "teacher_anchor": np.array(vector(n, 8)),
        "teacher_positive": np.array(vector(n + 1, 8)),
        **({"teacher_negative": np.array(vector(n + 2, 8))} if row["negative"] else {}),
    }
    for n, row in enumerate(PAIRS)
]

EXAMPLES = [
    TokenizedExample(
        input_ids=(
            ids := [3 + (number * 37 + place * 11) % 250 for place in range(3 + number * 7 % 19)]
        ),
        labels=[IGNORED, *ids[1:]],
        supervised_bytes=0,
        truncated=False,
        weight=0.5 + number % 3,
    )
    for number in NUMBERS
]


def reference_of(example: TokenizedExample) -> float:
    """Return about what a model without training gives an answer, so that no loss saturates."""
    return -math.log(260.0) * len(example.supervised_positions)


def another(number: int) -> TokenizedExample:
    return EXAMPLES[(number + 5) % ROWS]


PREFERENCES = [
    PreferencePair(
        chosen=example,
        rejected=another(n),
        reference=(reference_of(example), reference_of(another(n))),
    )
    for n, example in enumerate(EXAMPLES)
]
VERDICTS = [
    JudgedAnswer(
        answer=example,
        mismatched=another(n),
        accepted=n % 3 > 0,
        # The reference point, which all ranks have to share, is above 0.
        reference=(reference_of(example), reference_of(another(n)) - 5.0),
    )
    for n, example in enumerate(EXAMPLES)
]
OPTIMIZATION = {
    "learning_rate": 0.05,
    "schedule": "constant",
    "optimizer": {"name": "sgd", "momentum": 0.5, "layer_decay": 1.0},
}

EMBEDDING_CASES: dict[str, tuple[str, Sequence[Any]]] = {
    "multiple_negatives_ranking": ("pair", PAIRS),
    "multiple_negatives_symmetric_ranking": ("pair", PAIRS),
    "multiple_negatives_ranking in pieces": ("pair", PAIRS),
    "mega_batch_margin": ("pair", PAIRS_WITHOUT_NEGATIVES),
    "triplet": ("pair", TRIPLETS),
    "gist_embed": ("pair", GUIDED_PAIRS),
    "margin_mse": ("pair", SCORED_TRIPLETS),
    "distill_kl_div": ("pair", SCORED_TRIPLETS),
    "cosent": ("score", SCORES),
    "angle": ("score", SCORES),
    "cosine_similarity": ("score", SCORES),
    "contrastive": ("score", SAME_OR_DIFFERENT),
    "online_contrastive": ("score", SAME_OR_DIFFERENT),
    "supervised_contrastive": ("label", LABELS),
    "batch_all_triplet": ("label", LABELS),
    "batch_hard_triplet": ("label", LABELS),
    "batch_semi_hard_triplet": ("label", LABELS),
    "batch_hard_soft_margin_triplet": ("label", LABELS),
    "simcse": ("text", LABELS),
    "mse": ("vector", VECTORS),
    "cosine": ("vector", VECTORS),
    "l2": ("vector", VECTORS),
}
"""By loss, perhaps in pieces: the shape of its rows, and rows."""
LANGUAGE_CASES: dict[str, Sequence[Any]] = {
    "language model": EXAMPLES,
    "language model in parts": EXAMPLES,
    "preferences": PREFERENCES,
    "preferences in parts": PREFERENCES,
    "verdicts": VERDICTS,
}
CASES = (*EMBEDDING_CASES, *LANGUAGE_CASES)

ADDITIVE_CASES = ("cosine_similarity", "language model", "preferences")
"""Trainings in which a row's loss depends on no other row."""
STEP_ROWS = 8
ACCUMULATED = {1: 4, 2: 2, 4: 1}
"""Micro-batches of a step of eight rows, by the number of ranks that each micro-batch has."""


class Losses(lightning.Callback):
    """Notes what each step and each validation gave."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch.ends_window:
            self.found += [float(outputs["window_loss"]), float(pl_module.gradient_norm)]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.found.append(float(trainer.callback_metrics["val/loss"]))


def module_and_data(
    case: str, encoder: str, decoder: str, batch_size: int, rows: int
) -> tuple[Any, Any]:
    if case in LANGUAGE_CASES:
        items = LANGUAGE_CASES[case][:rows]
        module: Any = LanguageModelModule(model=decoder, pad_token_id=1, optimization=OPTIMIZATION)
        in_parts = "parts" in case
        # Of a validation of one batch, the second rank has no row.
        validation = items[: 3 if in_parts else 5]
        data: Any = LanguageModelDataModule(
            train=items, validation=validation, batch_size=batch_size
        )
        data.parts = 2 if in_parts else 1
        return module, data

    shape, records = EMBEDDING_CASES[case]
    loss = case.removesuffix(" in pieces")
    module = EmbeddingModule(
        model=encoder,
        shape=shape,
        loss=loss,
        mini_batch_size=int("pieces" in case),
        max_length=64,
        optimization=OPTIMIZATION,
    )
    data = EmbeddingDataModule(
        train=records[:rows],
        validation=records[:5],
        shape=shape,
        loss=resolve_loss(shape, loss),
        # SimCSE compares two views of each text.
        seen_twice=("text",),
        batch_size=batch_size,
    )
    return module, data


def trained(
    case: str,
    encoder: str,
    decoder: str,
    *,
    ranks: int,
    batch_size: int = 4,
    accumulate: int = 2,
    rows: int = ROWS,
    epochs: int = 1,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train for an epoch; its last step may have fewer rows than the others."""
    module, data = module_and_data(case, encoder, decoder, batch_size, rows)
    losses = Losses()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_epochs=epochs,
        accumulate_grad_batches=accumulate * data.parts,
        gradient_clip_val=0.5,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[losses],
    )
    module.train()
    trainer.fit(module, datamodule=data)
    return losses.found, {name: each.detach().clone() for name, each in module.named_parameters()}


def trained_with_eight_rows_a_step(
    case: str, encoder: str, decoder: str, ranks: int
) -> tuple[list[float], dict[str, torch.Tensor]]:
    accumulate = ACCUMULATED[ranks]
    return trained(
        case,
        encoder,
        decoder,
        ranks=ranks,
        batch_size=STEP_ROWS // accumulate,
        accumulate=accumulate,
        rows=STEP_ROWS,
        epochs=3,
    )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the models, and what each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    embedding_folder(folder / "encoder", "bert")
    language_folder(folder / "decoder", "llama")
    run_ranks(__file__, folder)
    return folder


def test_every_loss_is_tried() -> None:
    tried = {case.removesuffix(" in pieces") for case in EMBEDDING_CASES}

    assert tried == set(LOSSES)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_like_one(two_ranks: Path, case: str) -> None:
    losses, weights = trained(case, *models_of(two_ranks), ranks=1)
    started = torch.load(two_ranks / f"{case}.start", weights_only=True)

    # A batch of a single row, which has nothing to compare it with, is left out.
    steps = (len(losses) - 1) // 2
    assert steps in (3, 4)
    for rank in range(2):
        found_losses, found = torch.load(two_ranks / f"{case}.{rank}", weights_only=True)
        assert found_losses == pytest.approx(losses, rel=1e-4)
        assert_close(
            {name: each - started[name] for name, each in found.items()},
            {name: each - started[name] for name, each in weights.items()},
            tolerance=5e-4,
        )


def models_of(folder: Path) -> tuple[str, str]:
    return str(folder / "encoder" / "model"), str(folder / "decoder")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_ranks_take_the_place_of_accumulated_batches(two_ranks: Path) -> None:
    """One rank that accumulates four batches trains like two with two, and like four with one."""
    run_ranks(__file__, two_ranks, ranks=4)

    for case in ADDITIVE_CASES:
        losses, weights = trained_with_eight_rows_a_step(case, *models_of(two_ranks), ranks=1)
        for ranks in (2, 4):
            found_losses, found = torch.load(
                two_ranks / f"{case} by {ranks} ranks.0", weights_only=True
            )
            assert found_losses == pytest.approx(losses, rel=1e-5), (case, ranks)
            for name, weight in weights.items():
                assert float((found[name] - weight).abs().max()) < 1e-6, (case, ranks, name)


@pytest.mark.parametrize("count", [0, 1, 2, 25])
def test_each_rank_encodes_a_share_and_gets_all_vectors(two_ranks: Path, count: int) -> None:
    module = EmbeddingModule(model=str(two_ranks / "encoder" / "model"), shape="pair")
    expected = encode_texts(module.eval().encoder, TEXTS[:count])
    seen, vectors = [], []
    for rank in range(2):
        texts, encoded = torch.load(two_ranks / f"vectors of {count}.{rank}", weights_only=True)
        seen.append(texts)
        vectors.append(encoded.numpy())

    assert seen[0] + seen[1] == TEXTS[:count] and 0 <= len(seen[0]) - len(seen[1]) <= 1
    assert vectors[0].tobytes() == vectors[1].tobytes()
    assert vectors[0].shape == expected.shape
    assert vectors[0] == pytest.approx(expected, abs=1e-6)


def test_all_ranks_mine_for_an_epoch_once(two_ranks: Path) -> None:
    for rank in range(2):
        mined_by_ranks, mined = json.loads((two_ranks / f"mined by {rank}.json").read_text())

        assert mined_by_ranks == [0, 1]
        assert mined == [PAIRS, PAIRS]


def _encode_as_a_rank(folder: Path, path: str) -> None:
    """Encode in the process group that the trainings before have left."""
    module = EmbeddingModule(model=path, shape="pair").eval()
    for count in (0, 1, 2, 25):
        seen: list[str] = []

        def encode(texts: Sequence[str], seen: list[str] = seen) -> Any:
            seen += texts
            return encode_texts(module.encoder, texts)

        vectors = encoded_by_all_ranks(encode, TEXTS[:count], torch.device("cpu"))
        rank = os.environ["LOCAL_RANK"]
        torch.save((seen, torch.from_numpy(vectors)), folder / f"vectors of {count}.{rank}")


def _mine_as_a_rank(folder: Path) -> None:
    """Mine for one epoch, and once more as a resumed training does; the second rank comes late."""
    rank = int(os.environ["LOCAL_RANK"])
    mined_by_ranks: list[int] = []

    def records(encode: Any, epoch: int) -> Any:
        shares = [torch.zeros(1, dtype=torch.long) for _ in range(2)]
        torch.distributed.all_gather(shares, torch.tensor([rank]))
        mined_by_ranks.extend(int(share) for share in shares)
        return PAIRS

    refresh = remembered(Refresh(every_epochs=1, records=records), folder)
    assert refresh is not None
    mined = []
    for _ in range(2):
        time.sleep(0.5 * rank)
        mined.append(list(refresh.records(lambda texts, role: None, 1)))
    (folder / f"mined by {rank}.json").write_text(json.dumps([mined_by_ranks, mined]))


def _train_as_a_rank(folder: Path) -> None:
    paths = models_of(folder)
    for case in CASES:
        module: Any = (
            LanguageModelModule(model=paths[1])
            if case in LANGUAGE_CASES
            else EmbeddingModule(model=paths[0], shape="pair")
        )
        if os.environ["LOCAL_RANK"] == "0":
            torch.save(
                {name: each.detach() for name, each in module.named_parameters()},
                folder / f"{case}.start",
            )
        torch.save(trained(case, *paths, ranks=2), folder / f"{case}.{os.environ['LOCAL_RANK']}")


def _train_additive_cases(folder: Path) -> None:
    ranks, rank = int(os.environ["WORLD_SIZE"]), os.environ["RANK"]
    for case in ADDITIVE_CASES:
        found = trained_with_eight_rows_a_step(case, *models_of(folder), ranks=ranks)
        torch.save(found, folder / f"{case} by {ranks} ranks.{rank}")


def _compute_as_a_rank(folder: Path) -> None:
    _train_additive_cases(folder)
    if os.environ["WORLD_SIZE"] == "2":
        _train_as_a_rank(folder)
        _encode_as_a_rank(folder, models_of(folder)[0])
        _mine_as_a_rank(folder)


if __name__ == "__main__":
    _compute_as_a_rank(Path(sys.argv[1]))
    leave_the_ranks()
