"""Whole commands on two nodes that torchrun starts, here two processes of this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from tests.flow.nodes import ONE_THREAD, STEPS, store_arguments, training_arguments
from tests.flow.training_runs import hash_of_root, losses, wait_for_step

from tunetrail import DatabaseManager
from tunetrail.learning.workers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Nodes:
    """A command of tunetrail on two nodes, each below an agent of torchrun."""

    def __init__(self, workplace: Path, arguments: Sequence[str]) -> None:
        torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}"]
        environment = {
            **os.environ,
            **ONE_THREAD,
            "TUNETRAIL_HOME": str(workplace),
            "TUNETRAIL_NODE_PORT": str(free_port()),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.terminals = [workplace / f"terminal.{agent}.txt" for agent in range(2)]
        self.agents = []
        for terminal in self.terminals:
            with terminal.open("w") as file:
                agent = subprocess.Popen(
                    [sys.executable, *torchrun, "-m", "tunetrail", *arguments],
                    cwd=workplace,
                    env=environment,
                    stdout=file,
                    stderr=file,
                )
            self.agents.append(agent)

    def is_running(self) -> bool:
        return all(agent.poll() is None for agent in self.agents)

    def processes(self) -> dict[int, psutil.Process]:
        """Return the process of each node by its number; torchrun has numbered them."""
        processes = {}
        for agent in self.agents:
            (process,) = psutil.Process(agent.pid).children()
            processes[int(process.environ()["GROUP_RANK"])] = process
        return processes

    def wait(self) -> list[int]:
        return [agent.wait(timeout=600) for agent in self.agents]

    def printed(self) -> str:
        return "\n".join(terminal.read_text() for terminal in self.terminals)

    def end(self) -> None:
        for agent in self.agents:
            # An agent that is asked to stop stops what it has started.
            agent.terminate()
            agent.wait(timeout=60)


@pytest.fixture
def started() -> Iterator[list[Nodes]]:
    """The nodes that a test has started; what still runs is stopped after the test."""
    nodes: list[Nodes] = []
    yield nodes
    for command in nodes:
        command.end()


def test_a_killed_training_of_two_nodes_goes_on_exactly(
    workplace: Path,
    session: str,
    database: DatabaseManager,
    tiny_embedding_model: str,
    started: list[Nodes],
) -> None:
    """Losses and the hash of the weights are those of a training that nothing has disturbed."""
    arguments = [
        "train",
        f"session_id={session}",
        *training_arguments(workplace, tiny_embedding_model),
    ]

    killed = Nodes(workplace, arguments)
    started.append(killed)
    wait_for_step(workplace, 12, killed.is_running, killed.printed)
    processes = [*killed.processes().values()]
    ranks = [rank for process in processes for rank in process.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGKILL)
    assert killed.wait() == [1, 1], killed.printed()
    # They save and end when the process that has started them is gone.
    _, alive = psutil.wait_procs(ranks, timeout=60)

    (run,) = database.training_runs()
    assert alive == [] and run.state == "running" and run.mlflow_run_id is not None

    resumed = Nodes(workplace, ["resume", run.mlflow_run_id, *store_arguments(workplace)])
    started.append(resumed)
    assert resumed.wait() == [0, 0], resumed.printed()

    undisturbed = workplace / "undisturbed"
    whole = Nodes(
        workplace,
        [
            *arguments,
            f"model_dir={undisturbed}/models",
            f"output_dir={undisturbed}/out",
            "tracking.experiment=undisturbed",
        ],
    )
    started.append(whole)
    assert whole.wait() == [0, 0], whole.printed()

    resumed_losses = losses(workplace, "embedding")
    assert [step for step, _ in resumed_losses] == list(range(1, STEPS + 1))
    assert resumed_losses == losses(workplace, "embedding", "undisturbed")
    assert hash_of_root(workplace, "embedding") == hash_of_root(undisturbed, "embedding")
    assert [run.state for run in database.training_runs()] == ["succeeded", "succeeded"]
