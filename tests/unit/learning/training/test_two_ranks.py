"""Two processes that share a training out (DDP through gloo) have the losses and weights of one."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from tests.families import assert_close, embedding_folder, language_folder
from tests.ranks import run_two_ranks

from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.encoder import encode_texts
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample
from tunetrail.learning.training.ranks import encoded_by_all_ranks, leave_the_ranks
from tunetrail.learning.training.records import Refresh
from tunetrail.pipeline.mining import remembered

pytestmark = pytest.mark.processes

SCORES = [
    {"sentence1": f"text {'a ' * (n % 5)}", "sentence2": f"other {n * 7}", "score": n / 25}
    for n in range(25)
]
PAIRS = [
    {
        "anchor": f"question {n} {'a ' * (n % 4)}",
        "positive": f"answer {n * 7}",
        "negative": "no" * (n % 2),
    }
    for n in range(25)
]
TEXTS = [f"text {n} {'a ' * (n % 7)}" for n in range(25)]
LABELS = [{"text": f"text {n} {'a ' * (n % 4)}", "label": f"label {n % 3}"} for n in range(25)]
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
    for number in range(25)
]
OPTIMIZATION = {
    "learning_rate": 0.05,
    "schedule": "constant",
    "optimizer": {"name": "sgd", "momentum": 0.5, "layer_decay": 1.0},
}
EMBEDDING_CASES: dict[str, tuple[str, str, Any]] = {
    "scores": ("score", "cosine_similarity", SCORES),
    "cosent": ("score", "cosent", SCORES),
    "pairs": ("pair", "auto", PAIRS),
    "pairs in pieces": ("pair", "multiple_negatives_symmetric_ranking", PAIRS),
    "labels": ("label", "supervised_contrastive", LABELS),
    "views": ("text", "simcse", LABELS),
}
CASES = (*EMBEDDING_CASES, "language model", "language model in parts")


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


def trained(
    case: str, encoder: str, decoder: str, ranks: int
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train for two epochs; an epoch ends with a step of fewer rows than the others."""
    common: dict[str, Any] = {"batch_size": 4}
    module: Any
    data: Any
    if case.startswith("language model"):
        module = LanguageModelModule(model=decoder, pad_token_id=1, optimization=OPTIMIZATION)
        data = LanguageModelDataModule(train=EXAMPLES, validation=EXAMPLES[:5], **common)
        data.parts = 2 if "parts" in case else 1
    else:
        shape, loss, records = EMBEDDING_CASES[case]
        module = EmbeddingModule(
            model=encoder,
            shape=shape,
            loss=loss,
            mini_batch_size=int("pieces" in case),
            max_length=64,
            optimization=OPTIMIZATION,
        )
        data = EmbeddingDataModule(
            train=records,
            validation=records[:5],
            shape=shape,
            # SimCSE compares two views of each text.
            seen_twice=("text",),
            **common,
        )
    losses = Losses()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_epochs=2,
        accumulate_grad_batches=2 * getattr(data, "parts", 1),
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
    # A batch of a single row, which has nothing to compare it with, is left out.
    assert trainer.global_step in (6, 8)
    return losses.found, {name: each.detach().clone() for name, each in module.named_parameters()}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the models, and what each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    embedding_folder(folder / "encoder", "bert")
    language_folder(folder / "decoder", "llama")
    run_two_ranks(__file__, folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_like_one(two_ranks: Path, case: str) -> None:
    paths = str(two_ranks / "encoder" / "model"), str(two_ranks / "decoder")
    losses, weights = trained(case, *paths, ranks=1)
    started = torch.load(two_ranks / f"{case}.start", weights_only=True)
    for rank in range(2):
        found_losses, found = torch.load(two_ranks / f"{case}.{rank}", weights_only=True)
        assert found_losses == pytest.approx(losses, rel=1e-4)
        assert_close(
            {name: each - started[name] for name, each in found.items()},
            {name: each - started[name] for name, each in weights.items()},
        )


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
    paths = str(folder / "encoder" / "model"), str(folder / "decoder")
    for case in CASES:
        module: Any = (
            LanguageModelModule(model=paths[1])
            if "language" in case
            else EmbeddingModule(model=paths[0], shape="pair")
        )
        if os.environ["LOCAL_RANK"] == "0":
            torch.save(
                {name: each.detach() for name, each in module.named_parameters()},
                folder / f"{case}.start",
            )
        torch.save(trained(case, *paths, ranks=2), folder / f"{case}.{os.environ['LOCAL_RANK']}")
    _encode_as_a_rank(folder, paths[0])
    _mine_as_a_rank(folder)


if __name__ == "__main__":
    _train_as_a_rank(Path(sys.argv[1]))
    leave_the_ranks()
