import pytest

from tunetrail.hardware import cpu_count
from tunetrail.learning.devices import visible_gpus
from tunetrail.sweeps.launchers.slots import Slot, default_slots, divide_machine, gpus_for


def test_there_is_a_slot_for_each_gpu_or_else_two() -> None:
    assert default_slots(["0", "1", "2"]) == 3
    assert default_slots([]) == min(2, cpu_count())


@pytest.mark.parametrize(
    ("count", "leases"),
    [
        (1, [("a", "b", "c", "d")]),
        (2, [("a", "b"), ("c", "d")]),
        (3, [("a",), ("b",), ("c",)]),
        (4, [("a",), ("b",), ("c",), ("d",)]),
        (6, [("a",), ("b",), ("c",), ("d",), ("a",), ("b",)]),
    ],
)
def test_gpus_are_divided_among_the_slots(count: int, leases: list[tuple[str, ...]]) -> None:
    slots = divide_machine(count, ["a", "b", "c", "d"])
    assert [slot.gpus for slot in slots] == leases
    assert [slot.number for slot in slots] == list(range(1, count + 1))


def test_threads_are_divided_among_the_slots_and_each_has_one() -> None:
    assert [slot.threads for slot in divide_machine(2, [])] == [max(cpu_count() // 2, 1)] * 2
    assert divide_machine(cpu_count() + 1, [])[0].threads == 1


def test_a_slot_sets_the_gpus_and_threads_of_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    variables = Slot(number=1, threads=3, gpus=("GPU-5e", "2")).environment()

    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-5e,2"
    # The user's own number stays.
    assert (variables["OMP_NUM_THREADS"], variables["MKL_NUM_THREADS"]) == ("3", "7")
    assert "CUDA_VISIBLE_DEVICES" not in Slot(number=1, threads=1).environment()


def test_only_chosen_gpus_are_leased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, MIG-1")
    assert visible_gpus() == ["3", "MIG-1"]
    assert gpus_for({"accelerator": "auto"}) == ["3", "MIG-1"]
    assert gpus_for({"accelerator": "cpu"}) == []

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []
