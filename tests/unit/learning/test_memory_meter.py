import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tunetrail.learning import memory_meter
from tunetrail.learning.memory_meter import (
    control_group_room,
    free_memory,
    held_memory,
    peak_memory,
    release_memory,
)

CPU = torch.device("cpu")
MEBIBYTE = 2**20


def test_the_peak_holds_what_was_freed_before_the_end() -> None:
    before = held_memory(CPU)
    with peak_memory(CPU) as peak:
        block = torch.ones(64 * MEBIBYTE // 4)
        # On a busy machine, the thread that watches may have to wait.
        end = time.monotonic() + 60.0
        while peak.bytes - before <= 48 * MEBIBYTE and time.monotonic() < end:
            block += 1.0
        del block
    assert peak.bytes - before > 48 * MEBIBYTE
    assert held_memory(CPU) - before < 48 * MEBIBYTE


def test_the_peak_is_measured_where_the_work_fails() -> None:
    with pytest.raises(RuntimeError, match="full"), peak_memory(CPU) as peak:
        raise RuntimeError("full")
    assert peak.bytes > 0


def test_free_memory_is_a_part_of_the_machine() -> None:
    assert 0 < free_memory(CPU) < 2**50


def test_without_any_limit_the_machines_memory_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory_meter, "_GROUPS_OF_PROCESS", tmp_path / "missing")
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total


@pytest.mark.processes
@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux limits the address space of a process"
)
def test_the_limit_of_the_address_space_counts() -> None:
    code = (
        "import resource, torch\n"
        "from tunetrail.learning.memory_meter import address_space_room, free_memory\n"
        "before = address_space_room()\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + 300 * 2**20, resource.RLIM_INFINITY))\n"
        "print(before, free_memory(torch.device('cpu')) // 2**20)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert said[0] == "None" and 200 < int(said[1]) <= 300


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_the_tightest_group_above_the_process_counts(tmp_path: Path) -> None:
    own, mounted = tmp_path / "own", tmp_path / "cgroup"
    own.write_text("0::/outer/inner\n")
    group(
        mounted / "outer",
        {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "inactive_file 50\n"},
    )
    group(mounted / "outer" / "inner", {"memory.max": "max\n", "memory.current": "600\n"})
    assert control_group_room(mounted, own) == 350
    group(mounted / "outer" / "inner", {"memory.max": "650\n"})
    assert control_group_room(mounted, own) == 50


def test_groups_of_version_one_count(tmp_path: Path) -> None:
    own, mounted = tmp_path / "own", tmp_path / "cgroup"
    own.write_text("5:cpu:/job\n4:memory:/job\n0::/\n")
    group(mounted / "cpu" / "job", {"memory.limit_in_bytes": "1", "memory.usage_in_bytes": "1"})
    group(
        mounted / "memory" / "job",
        {
            "memory.limit_in_bytes": "2000",
            "memory.usage_in_bytes": "900",
            "memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
        },
    )
    assert control_group_room(mounted, own) == 1200


def test_a_container_sees_its_limit_at_the_top(tmp_path: Path) -> None:
    own, mounted = tmp_path / "own", tmp_path / "cgroup"
    own.write_text("0::/not/shown/here\n")
    group(mounted, {"memory.max": "500", "memory.current": "100"})
    assert control_group_room(mounted, own) == 400


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert control_group_room(tmp_path, tmp_path / "missing") is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is asked for it")
def test_released_memory_is_no_longer_held() -> None:
    blocks = [bytearray(64 * 1024) for _ in range(1024)]  # too small to be mapped one by one
    kept = bytearray(64 * 1024)  # above them: without it, the heap would shrink by itself
    held = held_memory(CPU)
    del blocks
    release_memory(CPU)
    assert held - held_memory(CPU) > 48 * MEBIBYTE
    assert len(kept) == 64 * 1024
