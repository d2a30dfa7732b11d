"""The same rows on a local Ray cluster as in this process; in a process of its own, which Ray takes over."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.processes

pytest.importorskip("ray", reason="the extra `ray` is not installed")

SCRIPT = """
import json, sys
from pathlib import Path
from tunetrail.config import CleaningConfig, PreparationConfig, SplitConfig, ValidationConfig
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind

folder = Path(sys.argv[1])
texts = [f"Text {n} of {n * 7919}: mail a{n}@corp.example, {n * 104729} more." for n in range(120)]
texts += [texts[3], texts[4] + " ", "", "cafÃ©"]
kind = SampleKind.EMBEDDING
rows = rows_frame((n, Sample(kind=kind, shape="text", content={"text": text})) for n, text in enumerate(texts))
sides = {}
for engine in ("local", "ray"):
    preparation = Preparation(
        steps=ChunkSteps(kind=SampleKind.EMBEDDING, validation=ValidationConfig(), cleaning=CleaningConfig()),
        split=SplitConfig(),
        config=PreparationConfig(chunk_rows=20, workers=1, engine=engine, cache_gigabytes=0.0),
        seed=0,
    )
    session = preparation.run([rows], folder / engine)
    sides[engine] = [step.to_dict() for step in session.account]
print(json.dumps(sides))
"""


def test_ray_gives_the_same_rows_as_this_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=240
    )

    assert done.returncode == 0, done.stderr[-3000:]

    accounts = json.loads(done.stdout.splitlines()[-1])
    assert accounts["local"] == accounts["ray"] and accounts["ray"][0]["rows_in"] == 124

    names = [f"rows/{side}" for side in ("train", "validation", "test")] + [
        "set_aside",
        "changes",
        "flags",
    ]
    for name in names:
        local, on_ray = (
            pd.read_parquet(tmp_path / engine / f"{name}.parquet") for engine in ("local", "ray")
        )
        pd.testing.assert_frame_equal(local, on_ray)
        assert len(local) or name == "flags"
