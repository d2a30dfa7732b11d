"""A training on two nodes, which are two processes here, and how nodes are read and refused."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from tests.families import embedding_folder
from tests.unit.pipeline.jobs import write_job
from torch.distributed import TCPStore

from tunetrail.config import EmbeddingConfig, PreparationConfig, Settings, TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import ConfigError, TrainingError
from tunetrail.learning.nodes.first_node import FirstNode
from tunetrail.learning.nodes.node import Node, meeting_port, node_of, this_node
from tunetrail.learning.workers import RankGroup, free_port
from tunetrail.pipeline.jobs import run_fit_job
from tunetrail.pipeline.ranks import rank_count

# Half of the cores, as for each of two ranks: the number of threads decides how sums are rounded.
NODE = """
import os, pathlib, sys

if hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[int(os.environ["GROUP_RANK"]) :: 2] or cores)

from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import TunetrailError
from tunetrail.pipeline.jobs import run_fit_job
from tunetrail.pipeline.ranks import follows_first_node

try:
    minutes = float(sys.argv[2])
    trainer = TrainerConfig(
        num_nodes=2, node_timeout_minutes=minutes, node_silence_seconds=6
    )
    if not follows_first_node(trainer):
        run_fit_job(pathlib.Path(sys.argv[1]))
except TunetrailError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "1",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
}
SRUN = {
    "SLURM_STEP_NODELIST": "gpu[03-05,9],login",
    "SLURM_STEP_NUM_NODES": "5",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_NODEID": "2",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Eight steps on two nodes with a rank each, without dropout: its draws depend on the rank."""
    training = TrainingConfig(
        batch_size=8,
        learning_rate=1e-3,
        warmup_steps=0,
        num_epochs=4,
        early_stopping_patience=0,
    )
    path = embedding_folder(tmp_path / "bert", "bert")
    return Settings(
        preparation=PreparationConfig(cache_gigabytes=0.0),
        embedding=EmbeddingConfig(model=path, max_length=64, training=training),
        trainer=TrainerConfig(
            accelerator="cpu",
            num_nodes=2,
            node_timeout_minutes=2.0,
            node_silence_seconds=6.0,
        ),
    )


def start(number: int, port: int, folder: Path, minutes: float = 2.0) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **TORCHRUN,
        "GROUP_RANK": str(number),
        "RANK": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "TUNETRAIL_NODE_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-W", "ignore", "-c", NODE, str(folder), str(minutes)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def errors_of(process: subprocess.Popen[str]) -> list[str]:
    _, output = process.communicate(timeout=240)
    return [line for line in output.splitlines() if line.startswith("error: ")]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = (folder / "model").rglob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
def test_two_nodes_train_the_model_of_two_ranks(settings: Settings, tmp_path: Path) -> None:
    nodes, ranks = write_job(tmp_path / "nodes", settings), tmp_path / "ranks"
    settings.trainer = TrainerConfig(accelerator="cpu", devices=2)
    write_job(ranks, settings)

    port = free_port()
    processes = [start(number, port, nodes) for number in (1, 0)]
    run_fit_job(ranks)

    assert [errors_of(process) for process in processes] == [[], []]
    assert [process.returncode for process in processes] == [0, 0]
    expected = weights_of(ranks)
    for name, weight in weights_of(nodes).items():
        assert torch.equal(weight, expected[name])


@pytest.mark.slow
def test_error_of_the_second_node_reaches_the_first(settings: Settings, tmp_path: Path) -> None:
    folder, port = write_job(tmp_path / "job", settings), free_port()
    (folder / "ranks").mkdir()
    # The rank of node 1 can't write its output, whereas rank 0 has the terminal.
    (folder / "ranks/1.log").mkdir()

    processes = [start(number, port, folder) for number in (0, 1)]
    first, second = [errors_of(process) for process in processes]

    assert [process.returncode for process in processes] == [1, 1]
    assert len(first) == 1
    assert second == ["error: node 1: the training failed; node 0 (127.0.0.1) tells why."]


@pytest.mark.slow
def test_two_nodes_are_started_by_torchrun(settings: Settings, tmp_path: Path) -> None:
    folder, rendezvous = write_job(tmp_path / "job", settings), free_port()
    script = tmp_path / "node.py"
    script.write_text(NODE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{rendezvous}"]
    environment = {**os.environ, "TUNETRAIL_NODE_PORT": str(free_port())}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)

    arguments = [*command, str(script), str(folder), "2"]
    nodes = [subprocess.Popen(arguments, env=environment) for _ in range(2)]
    try:
        exit_codes = [node.wait(timeout=240) for node in nodes]
    finally:
        # A launcher that is asked to stop stops what it has started.
        for node in nodes:
            node.terminate()

    assert exit_codes == [0, 0]
    assert weights_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_signal_to_one_node_stops_both(signalled: int, settings: Settings, tmp_path: Path) -> None:
    settings.embedding.training.num_epochs = 400
    folder, port = write_job(tmp_path / "job", settings), free_port()
    metrics = folder / "metrics.jsonl"

    nodes = [start(number, port, folder) for number in (0, 1)]
    while not metrics.exists() and all(node.poll() is None for node in nodes):
        time.sleep(0.1)
    nodes[signalled].send_signal(signal.SIGINT)
    outputs = [node.communicate(timeout=240)[1] for node in nodes]

    # What the command line turns into exit code 130: no node takes the stop for a failure.
    assert outputs[0].rstrip().endswith("KeyboardInterrupt")
    assert "error: " not in outputs[0]
    assert (folder / "checkpoints/last.ckpt").exists()


def start_training(settings: Settings, folder: Path) -> list[subprocess.Popen[str]]:
    """Start a long training on two nodes, and wait until it has taken a step."""
    settings.embedding.training.num_epochs = 4000
    settings.embedding.training.logging_steps = 1
    folder, port = write_job(folder, settings), free_port()
    nodes = [start(number, port, folder) for number in (0, 1)]
    while not (folder / "metrics.jsonl").exists():
        assert all(node.poll() is None for node in nodes)
        time.sleep(0.1)
    return nodes


def rank_of(node: subprocess.Popen[str]) -> psutil.Process:
    children = psutil.Process(node.pid).children(recursive=True)
    (rank,) = (child for child in children if "tunetrail.pipeline.worker" in child.cmdline())
    return rank


@pytest.fixture
def ended() -> Iterator[list[psutil.Process | subprocess.Popen[str]]]:
    """Processes that are killed after a test: a stopped one would stay for ever."""
    processes: list[psutil.Process | subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        if isinstance(process, subprocess.Popen):
            process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "signal_number", "error"),
    [
        (0, signal.SIGKILL, r"node 1: node 0 \(127\.0\.0\.1\) has ended during the training, and"),
        (
            0,
            signal.SIGSTOP,
            r"node 1: node 0 \(127\.0\.0\.1\) has not answered for 6 seconds during",
        ),
        (
            1,
            signal.SIGKILL,
            r"node 1 \(.+\) was lost: it has given no sign of life for \d+ seconds",
        ),
        (
            1,
            signal.SIGSTOP,
            r"node 1 \(.+\) was lost: it has given no sign of life for \d+ seconds",
        ),
    ],
)
def test_lost_node_ends_the_other_with_its_name(
    lost: int,
    signal_number: signal.Signals,
    error: str,
    settings: Settings,
    tmp_path: Path,
    ended: list[psutil.Process | subprocess.Popen[str]],
) -> None:
    nodes = start_training(settings, tmp_path / "job")
    ranks = [rank_of(node) for node in nodes]
    ended += [nodes[lost], *ranks]

    nodes[lost].send_signal(signal_number)
    lost_at = time.monotonic()
    (line,) = errors_of(nodes[1 - lost])

    assert time.monotonic() - lost_at < 60
    assert re.match(f"error: {error}", line), line
    assert nodes[1 - lost].returncode == 1
    assert not ranks[1 - lost].is_running()


@pytest.mark.slow
@pytest.mark.parametrize("hanging", [0, 1])
def test_rank_that_hangs_is_named_with_its_node(
    hanging: int,
    settings: Settings,
    tmp_path: Path,
    ended: list[psutil.Process | subprocess.Popen[str]],
) -> None:
    # The ranks also wait so long for one another at the beginning.
    settings.trainer.exchange_timeout_minutes = 0.5
    nodes = start_training(settings, tmp_path / "job")
    ranks = [rank_of(node) for node in nodes]
    ended += ranks

    ranks[hanging].suspend()
    first, second = [errors_of(node) for node in nodes]

    message = f"error: rank {hanging} (node {hanging}) took no part in an exchange for 0.5 minutes"
    assert [line.partition(",")[0] for line in first] == [message]
    assert second == ["error: node 1: the training failed; node 0 (127.0.0.1) tells why."]
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.processes
def test_node_that_never_comes_is_named(settings: Settings, tmp_path: Path) -> None:
    settings.trainer.node_timeout_minutes = 0.01
    folder, port = write_job(tmp_path / "job", settings), free_port()

    process = start(0, port, folder)

    (error,) = errors_of(process)
    assert error.startswith("error: node 1 of 2 has not come within 0.01 minutes; node 0 waited at")
    assert process.returncode == 1


@pytest.mark.processes
def test_node_waits_for_the_first_no_longer_than_told(tmp_path: Path) -> None:
    process = start(1, free_port(), tmp_path, minutes=0.01)

    (error,) = errors_of(process)
    assert error.startswith("error: node 0 has not come within 0.01 minutes; node 1 tried 127.")
    assert process.returncode == 1


def join(port: int) -> TCPStore:
    """Come to node 0 as node 1, and say nothing else."""
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            break
        time.sleep(0.01)
    store = TCPStore("127.0.0.1", port, is_master=False)
    store.set("alive/1", "0")
    store.set("joined/1", "gpu7")
    return store


def test_node_without_a_sign_of_life_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("TUNETRAIL_NODE_PORT", str(port))

    def run_until_told(group: RankGroup, poll: Callable[[], None]) -> None:
        assert (group.ranks, group.nodes, group.node) == (4, 2, 0)
        while True:
            poll()
            time.sleep(0.01)

    with ThreadPoolExecutor() as threads:
        joined = threads.submit(join, port)
        first_node = FirstNode(Node(0, 2, "127.0.0.1"), 1.0, 0.2)
        store = joined.result()

    with pytest.raises(TrainingError, match=r"^node 1 \(gpu7\) was lost: it has given no sign of"):
        first_node.run(tmp_path, 4, run_until_told)

    # The ranks of the other nodes are to end as well.
    assert store.check(["stop/0"])
    store.set("left/1", "")


@pytest.mark.parametrize(
    ("environment", "node"),
    [
        (TORCHRUN, Node(1, 2, "10.0.0.1")),
        (SRUN, Node(2, 5, "gpu03")),
        ({**SRUN, "SLURM_STEP_NODELIST": "a1,a2"}, Node(2, 5, "a1")),
        ({**SRUN, "MASTER_ADDR": "10.0.0.1"}, Node(2, 5, "10.0.0.1")),
        # Within `salloc`, but not started by srun.
        ({"SLURM_NODEID": "0", "SLURM_NNODES": "2"}, None),
        ({}, None),
    ],
)
def test_node_is_read_from_the_environment(environment: dict[str, str], node: Node | None) -> None:
    assert node_of(environment) == node


@pytest.mark.parametrize(
    ("environment", "port"),
    [
        ({}, 29_501),
        ({"SLURM_JOB_ID": "7"}, 15_007),
        ({"SLURM_JOB_ID": "1234567"}, 19_567),
        ({"SLURM_JOB_ID": "7", "TUNETRAIL_NODE_PORT": "2000"}, 2000),
    ],
)
def test_two_slurm_jobs_on_one_machine_meet_at_different_ports(
    environment: dict[str, str], port: int
) -> None:
    assert meeting_port(environment) == port


def test_one_process_per_node() -> None:
    with pytest.raises(ConfigError, match=r"^torchrun's --nproc-per-node must be 1, got 4\. "):
        node_of({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"})
    with pytest.raises(ConfigError, match=r"^srun's --ntasks-per-node must be 1, got 10 tasks on"):
        node_of({**SRUN, "SLURM_STEP_NUM_TASKS": "10"})


@pytest.mark.processes
def test_two_processes_of_a_machine_say_an_error_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["-m", "tunetrail", "train", "session_id=s", "--cfg=job", "trainer.devces=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )

    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 1
    assert len(errors) == 1 and "trainer.devices" in errors[0], ended.stderr


def test_nodes_that_nothing_has_started_are_refused() -> None:
    message = r"^trainer\.num_nodes must be the number of nodes .* \(none\), got 2\. Start `srun "
    with pytest.raises(ConfigError, match=message):
        rank_count(TrainerConfig(accelerator="cpu", num_nodes=2))
    with pytest.raises(ConfigError, match=r"^trainer\.num_nodes must be 1 with trainer\.launcher"):
        rank_count(TrainerConfig(num_nodes=2, launcher="ray"))


@pytest.mark.parametrize("num_nodes", [1, 3])
def test_another_number_of_nodes_than_was_started_is_refused(
    monkeypatch: pytest.MonkeyPatch, num_nodes: int
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, **TORCHRUN})
    this_node.cache_clear()

    message = rf"^trainer\.num_nodes must be .* started \(2\), got {num_nodes}\. Start"
    try:
        with pytest.raises(ConfigError, match=message):
            rank_count(TrainerConfig(accelerator="cpu", num_nodes=num_nodes))
    finally:
        this_node.cache_clear()
