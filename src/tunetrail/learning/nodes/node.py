"""Read which of the nodes of a training this process is, as torchrun or srun has started it.

Node 0 does the work of the command, and tells the other nodes which ranks to start.
"""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import ConfigError

PORT_VARIABLE = "TUNETRAIL_NODE_PORT"
_DEFAULT_PORT = 29501
# Two jobs of SLURM can share a machine, so the port follows from the job's number.
_FIRST_SLURM_PORT, _SLURM_PORTS = 15_000, 10_000
# By these, Lightning would take this process for a rank, in trial runs as well; by the first one,
# the ranks would look for their store at torchrun's agent, which doesn't listen on their port.
_LAUNCHER_VARIABLES = (
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RUN_ID",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "SLURM_NTASKS",
)


@dataclass(frozen=True, slots=True)
class Node:
    """One of the nodes of a training: its number from 0, their count, and the host of node 0."""

    number: int
    count: int
    address: str


def node_of(environment: Mapping[str, str]) -> Node | None:
    """Return the node that the variables of torchrun or srun describe; None if there are none.

    Raises:
        ConfigError: There are several processes on one node.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        if environment.get("LOCAL_WORLD_SIZE", "1") != "1":
            raise ConfigError(
                "torchrun's --nproc-per-node must be 1, got "
                f"{environment['LOCAL_WORLD_SIZE']}. trainer.devices sets the ranks of a node."
            )
        number, count = int(environment["GROUP_RANK"]), int(environment["GROUP_WORLD_SIZE"])
        return Node(number, count, environment["MASTER_ADDR"])

    # An allocation by salloc has no step: only what srun starts is a node.
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    number, count = int(environment["SLURM_NODEID"]), int(environment["SLURM_STEP_NUM_NODES"])
    tasks = int(environment["SLURM_STEP_NUM_TASKS"])
    if tasks != count:
        raise ConfigError(
            f"srun's --ntasks-per-node must be 1, got {tasks} tasks on {count} nodes. "
            "trainer.devices sets the ranks of a node."
        )
    # As for Lightning, a script may say where node 0 is: SLURM's names needn't be hosts' names.
    address = environment.get("MASTER_ADDR") or _first_host(environment["SLURM_STEP_NODELIST"])
    return Node(number, count, address)


def meeting_port(environment: Mapping[str, str]) -> int:
    """Return the port of node 0 at which nodes meet, the same on all of them."""
    if PORT_VARIABLE in environment:
        return int(environment[PORT_VARIABLE])
    if "SLURM_JOB_ID" in environment:
        return _FIRST_SLURM_PORT + int(environment["SLURM_JOB_ID"]) % _SLURM_PORTS
    return _DEFAULT_PORT


def _first_host(hosts: str) -> str:
    """Return the first host of a list in SLURM's notation, such as `gpu[03-05,9],login`."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", hosts)[0])


@functools.cache
def this_node() -> Node | None:
    """Return the node that this process is; None if neither torchrun nor srun has started it."""
    node = node_of(os.environ)
    for name in _LAUNCHER_VARIABLES:
        if node is not None:
            os.environ.pop(name, None)
    return node


def check_nodes(trainer: TrainerConfig) -> None:
    """Check that this process was started on as many nodes as the settings say.

    Raises:
        ConfigError: It wasn't, or Ray should start the ranks.
    """
    node = this_node()
    started = node.count if node else 1
    if trainer.num_nodes == started == 1:
        return

    if trainer.launcher != "local":
        raise ConfigError(
            f"trainer.num_nodes must be 1 with trainer.launcher=ray, got {trainer.num_nodes}. "
            "Ray places its workers itself: set trainer.devices only."
        )
    if node is None or trainer.num_nodes != started:
        nodes = max(trainer.num_nodes, started)
        raise ConfigError(
            "trainer.num_nodes must be the number of nodes that torchrun or srun has started "
            f"({node.count if node else 'none'}), got {trainer.num_nodes}. Start `srun --nodes="
            f"{nodes} --ntasks-per-node=1 tunetrail train trainer.num_nodes={nodes} ...`, or use "
            "torchrun as in docs/training.md."
        )
