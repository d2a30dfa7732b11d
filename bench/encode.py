"""Encoding a corpus, against `SentenceTransformer.encode`."""

import random
import tempfile
from pathlib import Path

import numpy as np

from bench.engine.comparing import ROUNDS
from bench.engine.figures import OURS, memory_figures, ratios
from bench.engine.rows import made_records, name_of, texts_of_file, write_rows
from bench.fresh import Arm, interleaved
from bench.results import Figure, Options, Result
from bench.stsb import PEER
from tunetrail.errors import SampleError
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model

_TEXTS, _BATCH_SIZE, _MAX_LENGTH, _SEED = 2000, 32, 256, 42
_RATIO = 1.4
_FUNCTIONS = {OURS: "encode_with_tunetrail", PEER: "encode_with_sentence_transformers"}


def run(options: Options) -> list[Result]:
    """Encode texts of all lengths with MiniLM by both sides, and compare the vectors."""
    name, texts = _corpus(options)
    with tempfile.TemporaryDirectory(prefix="bench-texts-") as folder:
        arguments = {
            "model": resolve_model("minilm", EMBEDDING_MODELS).path,
            "texts": write_rows([{"text": text} for text in texts], Path(folder) / "texts.jsonl"),
            "max_length": _MAX_LENGTH,
            "batch_size": _BATCH_SIZE,
        }
        files = {arm: str(Path(folder) / f"{arm}.npy") for arm in _FUNCTIONS}
        arms = [
            Arm(
                name=arm,
                function=f"bench.engine.encoding:{function}",
                arguments={**arguments, "vectors": files[arm]},
            )
            for arm, function in _FUNCTIONS.items()
        ]
        runs = interleaved(arms, options.rounds or ROUNDS)
        difference = float(np.abs(np.load(files[OURS]) - np.load(files[PEER])).max())
    figures = [
        *(
            Figure(name=f"{arm}, {unit}", unit=unit, values=[each[key] for each in found])
            for key, unit in (("texts_per_second", "texts/s"), ("tokens_per_second", "tokens/s"))
            for arm, found in runs.items()
        ),
        Figure(
            name=f"speed against {PEER}",
            unit="x",
            values=ratios(runs[OURS], runs[PEER], "texts_per_second"),
            at_least=_RATIO,
        ),
        Figure(
            name="largest difference of a vector's number",
            unit="",
            values=[difference],
            at_most=1e-4,
        ),
        *memory_figures(runs, {}),
    ]
    details = {
        "tokens": runs[OURS][-1]["tokens"],
        "max_length": _MAX_LENGTH,
        "batch_size": _BATCH_SIZE,
    }
    return [Result(name=f"encode, {name}, {len(texts):,} texts", figures=figures, details=details)]


def _corpus(options: Options) -> tuple[str, list[str]]:
    if options.data:
        name, texts = name_of(options.data), texts_of_file(options.data)
    else:
        name = "stdlib documentation and code"
        texts = list(dict.fromkeys(text for row in made_records("pair") for text in row.values()))
    if not texts:
        raise SampleError(
            f"{name} must have texts of more than one word, got none. Take another file."
        )
    random.Random(_SEED).shuffle(texts)
    return name, texts[: options.rows or _TEXTS]
