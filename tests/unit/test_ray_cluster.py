"""What can't be connected to is said in one line, before Ray is started."""

import sys

import pytest

from tunetrail import ray_cluster
from tunetrail.errors import ConfigError
from tunetrail.learning.workers import free_port


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if it weren't installed: Python finds no module under this name any more.
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(ConfigError, match=r"^trainer\.launcher must be local if Ray isn't instal"):
        ray_cluster.connect("trainer.launcher")


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)

    with pytest.raises(ConfigError, match=rf"^RAY_ADDRESS must be the address .* got '{address}'"):
        ray_cluster.connect("trainer.launcher")
