"""Peak memory of a preparation follows the chunk and not the session; measured in processes of their own.

Pages of mapped files don't count: the system takes them back where it needs the room.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

SCRIPT = """
import sys, threading, time
from pathlib import Path
import numpy as np
from tunetrail.config import CleaningConfig, PreparationConfig, SplitConfig, ValidationConfig
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind

peak = 0

def watch():
    global peak
    while True:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()

def frames(count):
    generator = np.random.default_rng(0)
    words = np.array(["".join(generator.choice(list("abcdefghij"), 7)) for _ in range(5000)])
    for start in range(0, count, 100):
        texts = [" ".join(generator.choice(words, 600)) for _ in range(100)]
        yield rows_frame(
            (start + n, Sample(kind=SampleKind.EMBEDDING, shape="text", content={"text": text}))
            for n, text in enumerate(texts)
        )

Preparation(
    steps=ChunkSteps(kind=SampleKind.EMBEDDING, validation=ValidationConfig(), cleaning=CleaningConfig()),
    split=SplitConfig(),
    config=PreparationConfig(chunk_rows=200, workers=1, cache_gigabytes=0.0),
    seed=0,
).run(frames(int(sys.argv[2])), Path(sys.argv[1]))
print(peak // 1024)
"""


def peak_megabytes(folder: Path, rows: int) -> int:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return int(done.stdout.splitlines()[-1])


def test_memory_does_not_grow_with_the_session(tmp_path: Path) -> None:
    few, many = (
        800,
        8000,
    )  # the longer session's texts are 38 MB, and several times as much as Python objects
    assert peak_megabytes(tmp_path / "many", many) - peak_megabytes(tmp_path / "few", few) < 80
