"""An application that is killed while it logs: nothing acknowledged is lost, nothing is doubled."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tunetrail import DatabaseManager
from tunetrail.collecting import collect

THREADS = 8
SAMPLES = 100_000
APPLICATION = """
import json, os, sys, threading, time
from tunetrail import Session

database, folder, run, count, mode, threads = sys.argv[1:]
session = Session("s1", "embedding", database, durable=mode == "durable")
nanoseconds = []

def work(thread):
    taken = []
    acknowledged = os.open(f"{folder}/{run}-{thread}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    unflushed = []
    for number in range(int(count) // int(threads)):
        name = f"{run}-{thread}-{number}"
        began = time.perf_counter_ns()
        session.log(anchor=f"question {name}", positive=f"the answer to {name}, some words long")
        taken.append(time.perf_counter_ns() - began)
        unflushed.append(name)
        # A durable entry is acknowledged when the call returns, others when flush does.
        if mode == "durable" or number % 500 == 499 and session.flush():
            os.write(acknowledged, ("\\n".join(unflushed) + "\\n").encode())
            unflushed.clear()
    nanoseconds.extend(taken)

workers = [threading.Thread(target=work, args=(thread,)) for thread in range(int(threads))]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert session.close(120)
print(json.dumps(sorted(nanoseconds)))
"""


def acknowledged(folder: Path) -> list[str]:
    # A kill may have cut off the last line.
    texts = [file.read_text() for file in folder.iterdir()]
    return [name for text in texts for name in text[: text.rfind("\n") + 1].split()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", ["buffered", "durable"])
def test_two_kills_lose_and_double_nothing(mode: str, tmp_path: Path) -> None:
    database, folder = f"sqlite:///{tmp_path}/tunetrail.db", tmp_path / "acknowledged"
    folder.mkdir()

    def start(run: int, count: int) -> subprocess.Popen[str]:
        arguments = [database, str(folder), str(run), str(count), mode, str(THREADS)]
        command = [sys.executable, "-c", APPLICATION, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    for run in range(2):
        application = start(run, SAMPLES)
        # In the middle of its work, wherever that is.
        while len(acknowledged(folder)) < (run + 1) * SAMPLES // 4:
            assert application.poll() is None
            time.sleep(0.02)
        os.kill(application.pid, signal.SIGKILL)
        application.communicate()
    left = SAMPLES - len(acknowledged(folder))
    application = start(2, left + THREADS - left % THREADS)
    out, _ = application.communicate(timeout=1000)

    assert application.returncode == 0
    with sqlite3.connect(tmp_path / "tunetrail.db") as connection:
        rows = connection.execute("SELECT json_extract(content, '$.anchor') FROM log_entries")
        counts = Counter(anchor.removeprefix("question ") for (anchor,) in rows)
    promised = set(acknowledged(folder))
    assert len(promised) >= SAMPLES - THREADS * 500
    assert promised <= set(counts), "lost"
    assert set(counts.values()) == {1}, "doubled"
    assert not Path(f"{tmp_path}/tunetrail.db.spool").exists()
    with DatabaseManager(database) as manager:
        collection = collect(manager, "s1")
        assert collection is not None and collection.added == len(counts)

    # Figures for the lab log; a timing decides no test.
    taken = json.loads(out)
    shares = {share: taken[int(len(taken) * share)] / 1000 for share in (0.5, 0.9, 0.99, 0.999)}
    figures = ", ".join(f"p{share * 100:g} {value:.0f} us" for share, value in shares.items())
    print(f"\n{mode}: {len(counts)} entries, {len(promised)} acknowledged; {figures}")
