import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.engine.clock import StepClock, Window
from bench.engine.figures import OURS, Targets, comparison
from bench.engine.flops import ModelSize, size_of, training_flops
from bench.engine.ranks import seconds_within_epochs
from bench.engine.tasks import Measured, Task, timed
from bench.fresh import Arm, ArmError, called_fresh, interleaved, require
from bench.memory import peak_resident

from tunetrail.errors import ConfigError

PAIRS = [
    {"anchor": f"what is number {n}", "positive": f"number {n} is {'very ' * n}small"}
    for n in range(24)
]
COMPLETIONS = [{"input": f"say {n} twice", "output": f"{n} {n}"} for n in range(12)]
ECHO = """
import os, sys
def echo(*, word, folder):
    with open(os.environ["ECHOED"], "a") as file:
        file.write(word)
    return {"word": word, "process": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"], "empty": os.listdir(folder)}
def fail(*, folder):
    print("halfway")
    raise ValueError("broken on purpose")
"""


def write(rows: list[dict[str, Any]], path: Path) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def task_of(folder: Path, model: str, rows: list[dict[str, Any]], **values: Any) -> Task:
    files = {name: write(rows, folder / f"{name}.jsonl") for name in ("train", "held_out")}
    common = {
        "batch_size": 4,
        "epochs": 2,
        "max_length": 48,
        "learning_rate": 1e-3,
        "rows": len(rows),
    }
    return Task(model=model, **files, **{**common, **values})


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bench_echo.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ECHOED", str(tmp_path / "echoed"))
    return tmp_path / "echoed"


def arm(word: str, **options: Any) -> Arm:
    return Arm(name=word, function="bench_echo:echo", arguments={"word": word}, **options)


def test_called_fresh_calls_in_another_process_with_two_threads_and_an_empty_folder(echo):
    result = called_fresh(arm("a"))
    assert result.pop("process") != os.getpid()
    assert result == {"word": "a", "threads": "2", "empty": []}


def test_called_fresh_names_the_arm_and_what_it_said_when_it_fails(echo):
    with pytest.raises(ArmError, match=r"(?s)broken arm.*halfway.*broken on purpose"):
        called_fresh(Arm(name="broken arm", function="bench_echo:fail"))


def test_interleaved_takes_the_arms_in_turn_and_some_only_once(echo):
    found = interleaved([arm("a"), arm("b", most_rounds=1), arm("c")], 2)
    assert echo.read_text() == "abcac"
    assert {name: len(results) for name, results in found.items()} == {"a": 2, "b": 1, "c": 2}


def test_require_names_the_extra_for_a_missing_package():
    require("json")
    with pytest.raises(ConfigError, match=r"no_such_peer.*'.\[bench\]'"):
        require("json", "no_such_peer")


def test_step_clock_counts_steps_and_the_tokens_of_the_table_most_looked_up():
    words, positions = torch.nn.Embedding(50, 4), torch.nn.Embedding(90, 4)
    optimizer = torch.optim.SGD([*words.parameters(), *positions.parameters()], lr=0.1)
    with StepClock() as clock:
        for length in (3, 5, 7):
            (
                words(torch.ones(2, length, dtype=torch.long)) + positions(torch.arange(length))
            ).sum().backward()
            optimizer.step()
    optimizer.step()
    words(torch.ones(2, 2, dtype=torch.long))

    assert clock.steps == 3
    assert clock.last(2).computed_tokens == 2 * (5 + 7)
    assert clock.last(2).seconds >= clock.last(1).seconds > 0
    with pytest.raises(ValueError, match="between 1 and 2"):
        clock.last(3)


def test_timed_leaves_out_the_first_epoch_and_refuses_uneven_ones():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with StepClock(counts_tokens=False) as clock:
        for _ in range(6):
            optimizer.step()

    assert timed(clock, 3).steps == 4
    assert timed(clock, 3).computed_tokens == 0
    with pytest.raises(ValueError, match="equally many steps"):
        timed(clock, 4)


def test_peak_memory_is_that_of_this_process():
    before = peak_resident()
    block = bytearray(os.urandom(1024)) * (64 * 1024)
    assert peak_resident() >= before
    assert peak_resident() > len(block)


def test_training_flops_counts_matrices_attention_and_head():
    size = ModelSize(weights=100, layers=2, hidden=3, head_weights=50)

    assert (
        training_flops(size, [4, 2], supervised=5)
        == 6 * 100 * 6 + 12 * 2 * 3 * (16 + 4) + 6 * 50 * 5
    )

    adapted = ModelSize(weights=100, layers=2, hidden=3, head_weights=50, adapter_weights=10)
    assert (
        training_flops(adapted, [4], supervised=5)
        == (4 * 100 + 6 * 10) * 4 + 12 * 2 * 3 * 16 + 4 * 50 * 5
    )


def test_size_of_counts_the_layers_of_an_encoder(tiny_embedding_model):
    from sentence_transformers import SentenceTransformer

    layer = 4 * 32 * 32 + 2 * 32 * 64
    expected = ModelSize(weights=2 * layer, layers=2, hidden=32)
    assert size_of(SentenceTransformer(tiny_embedding_model, device="cpu")) == expected


def test_size_of_tells_adapters_and_the_tied_head_of_a_language_model(tiny_language_model):
    from peft import LoraConfig, get_peft_model

    from tunetrail.learning.language_model.module import load_language_model

    model = load_language_model(tiny_language_model)
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    plain = size_of(model)
    assert plain == ModelSize(
        weights=2 * layer, layers=2, hidden=64, head_weights=model.config.vocab_size * 64
    )
    adapted = size_of(
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    )
    assert adapted.weights == plain.weights
    assert adapted.adapter_weights == 2 * 2 * (64 + 64)


def measured(seconds: float, **values: Any) -> dict[str, Any]:
    common = {
        "rows": 20,
        "tokens": 90,
        "supervised": 0,
        "flops": 4e9,
        "peak_flops": 1e9,
        "memory": 2**30,
    }
    window = Window(steps=2, seconds=seconds, computed_tokens=120)
    return Measured(
        window=window, losses=[(1, 2.0), (2, 1.0)], held_out_loss=0.5, **{**common, **values}
    ).to_dict()


def test_measured_derives_speed_padding_and_mfu():
    measurement = measured(8.0)
    assert (measurement["rows_per_second"], measurement["tokens_per_second"]) == (2.5, 11.25)
    assert (measurement["padding_share"], measurement["mfu"]) == (0.25, 0.5)


def test_comparison_takes_the_ratio_of_each_round_and_says_what_is_missed():
    runs = {
        OURS: [measured(1.0), measured(2.0), measured(4.0)],
        "peer": [measured(3.0), measured(4.0), measured(16.0, memory=2**31)],
        "once": [measured(2.0)],
    }
    result = comparison(
        "case",
        runs,
        speed="rows_per_second",
        unit="pairs/s",
        targets=Targets(ratio={"peer": 3.5}, mfu=0.4, padding=0.03, memory={"peer": 0.6}),
        before=0.9,
        details={"kept": 1},
    )
    figures = {figure.name: figure for figure in result.figures}

    assert list(figures["speed against peer"].values) == [3.0, 2.0, 4.0]
    assert figures["speed against peer"].is_met is False
    assert (list(figures["speed against once"].values), figures["speed against once"].is_met) == (
        [2.0],
        None,
    )
    assert figures[f"{OURS}, MFU"].is_met is True
    assert (figures[f"{OURS}, padding"].is_met, figures["peer, padding"].is_met) == (False, None)
    assert list(figures["peak memory against peer"].values) == [1.0, 1.0, 0.5]
    assert (figures["held-out loss before"].median, figures["last training loss, peer"].median) == (
        0.9,
        1.0,
    )
    assert result.details["measured"]["once"]["tokens"] == 90
    assert result.details["kept"] == 1


def test_training_through_tunetrail_is_measured_from_outside(workplace, tiny_embedding_model):
    from bench.engine.embedding import held_out_before, train_with_tunetrail

    task = task_of(
        workplace, tiny_embedding_model, PAIRS, shape="pair", loss="multiple_negatives_ranking"
    )
    measurement = train_with_tunetrail(
        task=task.to_dict(), folder=str(workplace), keep=str(workplace / "kept")
    )
    cut = [min(len(text), 48) for row in PAIRS for text in row.values()]
    assert (measurement["rows"], measurement["steps"], measurement["tokens"]) == (24, 6, sum(cut))
    assert measurement["padding_share"] == pytest.approx(0.0, abs=0.03)
    before = held_out_before(task=task.to_dict(), folder=str(workplace))
    assert measurement["held_out_loss"] < before["held_out_loss"]
    assert measurement["losses"][-1][0] == 12
    held_out = held_out_before(
        task={**task.to_dict(), "model": str(workplace / "kept")}, folder=str(workplace)
    )
    assert held_out["held_out_loss"] == pytest.approx(measurement["held_out_loss"], abs=1e-4)


def test_fine_tuning_through_tunetrail_is_measured_from_outside(workplace, tiny_language_model):
    from bench.engine.language import held_out_before, train_with_tunetrail

    task = task_of(
        workplace,
        tiny_language_model,
        COMPLETIONS,
        shape="completion",
        adapter="lora",
        max_length=128,
    )
    measurement = train_with_tunetrail(task=task.to_dict(), folder=str(workplace))
    assert (measurement["rows"], measurement["steps"]) == (12, 3)
    assert 0 < measurement["supervised_tokens"] < measurement["tokens"]
    assert measurement["padding_share"] == pytest.approx(0.0, abs=0.01)
    before = held_out_before(task=task.to_dict(), folder=str(workplace))
    assert measurement["held_out_loss"] < before["held_out_loss"]


def test_the_bare_loop_takes_the_steps_of_the_ordinary_training(workplace):
    from bench.engine.overhead import train_in_a_bare_loop, train_through_lightning

    task = task_of(workplace, "", PAIRS, shape="pair").to_dict()
    for function in (train_in_a_bare_loop, train_through_lightning):
        folder = workplace / function.__name__
        folder.mkdir()
        (folder / "mlflow.db").write_bytes((workplace / "mlflow.db").read_bytes())
        assert function(task=task, folder=str(folder))["milliseconds"] > 0


def test_encoding_through_tunetrail_gives_the_vectors_of_sentence_transformers(
    tmp_path, tiny_embedding_model
):
    import numpy as np
    from bench.engine.encoding import encode_with_sentence_transformers, encode_with_tunetrail

    texts = write([{"text": row["positive"]} for row in PAIRS], tmp_path / "texts.jsonl")
    for name, function in (
        ("one", encode_with_tunetrail),
        ("other", encode_with_sentence_transformers),
    ):
        measurement = function(
            model=tiny_embedding_model,
            texts=texts,
            max_length=64,
            batch_size=8,
            vectors=str(tmp_path / f"{name}.npy"),
            folder=str(tmp_path),
        )
        assert measurement["tokens"] == sum(min(len(row["positive"]), 64) for row in PAIRS)
    np.testing.assert_allclose(
        np.load(tmp_path / "one.npy"), np.load(tmp_path / "other.npy"), atol=1e-5
    )


def test_seconds_of_steps_leave_out_the_first_epoch_and_validations():
    moments = {1: 0.0, 2: 5.0, 3: 6.0, 4: 9.0, 5: 10.0, 6: 12.0, 7: 20.0, 8: 21.0, 9: 22.0}

    assert seconds_within_epochs(moments, steps_per_epoch=3) == [1.0, 2.0, 1.0, 1.0]


@pytest.mark.slow
# Several fresh processes, each of which imports for seconds: next to other work, minutes.
@pytest.mark.timeout(900)
def test_two_ranks_do_the_work_of_one(tmp_path, tiny_embedding_model):
    task = task_of(
        tmp_path, tiny_embedding_model, PAIRS, shape="pair", loss="multiple_negatives_ranking"
    ).to_dict()
    one, two = (
        called_fresh(
            Arm(
                name=f"{ranks} ranks",
                function="bench.engine.ranks:train_on_ranks",
                arguments={"task": task, "ranks": ranks},
            )
        )
        for ranks in (1, 2)
    )

    assert two["rows_per_second"] > 0
    # The ranks draw dropout of their own.
    assert two["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=0.05)


@pytest.mark.slow
def test_sentence_transformers_trainer_does_the_work_of_tunetrail(tmp_path, tiny_embedding_model):
    pytest.importorskip("datasets")
    pytest.importorskip("accelerate")
    task = task_of(
        tmp_path, tiny_embedding_model, PAIRS, shape="pair", loss="multiple_negatives_ranking"
    ).to_dict()
    ours, peer = (
        called_fresh(
            Arm(name=name, function=f"bench.engine.embedding:{name}", arguments={"task": task})
        )
        for name in ("train_with_tunetrail", "train_with_sentence_transformers")
    )

    assert {key: ours[key] for key in ("rows", "steps", "tokens")} == {
        key: peer[key] for key in ("rows", "steps", "tokens")
    }
    assert peer["padding_share"] > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_trl_does_the_work_of_tunetrail(tmp_path, tiny_language_model, adapter):
    pytest.importorskip("trl")
    task = task_of(
        tmp_path,
        tiny_language_model,
        COMPLETIONS,
        shape="completion",
        adapter=adapter,
        max_length=128,
    )
    arms = [
        Arm(
            name="own",
            function="bench.engine.language:train_with_tunetrail",
            arguments={"task": task.to_dict()},
        ),
        *(
            Arm(
                name=name,
                function="bench.engine.language:train_with_trl",
                arguments={"task": task.to_dict(), **arguments},
            )
            for name, arguments in (("padded", {}), ("packed", {"packing": True}))
        ),
    ]
    found = {name: results[0] for name, results in interleaved(arms, 1).items()}
    newlines = len(COMPLETIONS)  # the template ends a turn with one, which TRL learns, too

    assert found["padded"]["tokens"] == found["packed"]["tokens"] == found["own"]["tokens"]
    assert found["padded"]["supervised_tokens"] == found["own"]["supervised_tokens"] + newlines
    assert found["padded"]["padding_share"] > 0.0
    assert found["packed"]["padding_share"] == pytest.approx(0.0, abs=0.01)
