import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunetrail.config import (
    CheckConfig,
    CleaningConfig,
    LabelChecksConfig,
    PreparationConfig,
    RowChecksConfig,
    SplitConfig,
    ValidationConfig,
)
from tunetrail.data.checks.row_vectors import TextEncoder
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.errors import ConfigError, SampleError
from tunetrail.samples import Sample, SampleKind

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def sentence(seed: int, words: int = 14) -> str:
    """A sentence of its own: no two share many words."""
    generator = np.random.default_rng(seed)
    drawn = ["".join(generator.choice(list(LETTERS), size=6)) for _ in range(words)]
    return " ".join(drawn)


def samples(texts: Sequence[str], **more: Any) -> pd.DataFrame:
    return rows_frame(
        (row_id, Sample(kind=SampleKind.EMBEDDING, shape="text", content={"text": text}, **more))
        for row_id, text in enumerate(texts, start=1)
    )


def preparation_of(config: PreparationConfig | None = None) -> Preparation:
    steps = ChunkSteps(
        kind=SampleKind.EMBEDDING, validation=ValidationConfig(), cleaning=CleaningConfig()
    )
    no_cache = PreparationConfig(workers=1, cache_gigabytes=0.0)
    return Preparation(steps=steps, split=SplitConfig(), config=config or no_cache, seed=0)


def numbered(first_id: int, texts: Sequence[str], **more: Any) -> pd.DataFrame:
    frame = samples(texts, **more)
    return frame.assign(row_id=frame["row_id"] + first_id - 1)


def test_have_twins_compares_prepared_rows_with_raw_rows_of_other_sessions(tmp_path: Path) -> None:
    texts = [sentence(seed) for seed in range(8)]
    one_word = " ".join(["another", *texts[1].split()[1:]])
    with_markup = f"<p>{texts[2]}</p>\n<p>&amp;</p>"
    first = numbered(100, [texts[0].upper(), one_word, with_markup, sentence(100)])
    second = numbered(200, [texts[3], texts[4], sentence(101)])

    mask = preparation_of().have_twins(
        numbered(1, texts), [[first], [second]], np.array([100, 101, 102, 103, 201]), tmp_path
    )

    # The twin of the fourth text is no row that counts.
    assert mask.tolist() == [True, True, True, False, True, False, False, False]
    assert list(tmp_path.iterdir()) == []


def test_have_twins_knows_groups_and_no_session_at_all(tmp_path: Path) -> None:
    rows = numbered(1, [sentence(0), sentence(1)], group="g")
    other = numbered(10, [sentence(2)], group="g")
    preparation = preparation_of()

    assert preparation.have_twins(rows, [[other]], np.array([10]), tmp_path).all()
    assert not preparation.have_twins(rows, [[other]], np.array([11]), tmp_path).any()
    assert not preparation.have_twins(rows, [], np.array([], dtype=np.int64), tmp_path).any()


def test_have_twins_takes_a_prepared_session_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    config = PreparationConfig(workers=1, cache_dir=str(cache), chunk_rows=10)
    frame = numbered(50, [sentence(seed) for seed in range(60)])
    preparation = preparation_of(config)
    preparation.run([frame], tmp_path / "session")
    results = sorted(path for path in cache.rglob("sketches.npz"))

    mask = preparation.have_twins(
        numbered(1, [sentence(5), sentence(61)]), [[frame]], np.arange(50, 110), tmp_path / "more"
    )

    assert mask.tolist() == [True, False]
    assert len(results) > 2 and sorted(cache.rglob("sketches.npz")) == results


def prepare(
    frames: pd.DataFrame | list[pd.DataFrame],
    folder: Path,
    *,
    kind: SampleKind = SampleKind.EMBEDDING,
    config: PreparationConfig | None = None,
    encoder: TextEncoder | None = None,
    reference: pd.DataFrame | None = None,
    validation: ValidationConfig | None = None,
    cleaning: CleaningConfig | None = None,
    split: SplitConfig | None = None,
) -> PreparedSession:
    steps = ChunkSteps(
        kind=kind,
        validation=validation or ValidationConfig(),
        cleaning=cleaning or CleaningConfig(),
    )
    preparation = Preparation(
        steps=steps,
        split=split or SplitConfig(),
        config=config or PreparationConfig(workers=1, cache_gigabytes=0.0),
        encoder=encoder,
        reference=reference,
        seed=0,
        objective_setting="embedding.shape" if kind == "embedding" else "llm.objective",
    )
    return preparation.run([frames] if isinstance(frames, pd.DataFrame) else frames, folder)


def all_rows(session: PreparedSession) -> pd.DataFrame:
    return pd.concat([session.frame(side) for side in session.sides], ignore_index=True)


def check_account(session: PreparedSession, rows_in: int) -> None:
    """Every row is on one side or set aside with a reason, once; each step's counts add up."""
    set_aside = pd.read_parquet(session.folder / "set_aside.parquet")
    assert session.rows_in == rows_in
    rows_out = session.account[0].rows_in
    for step in session.account:
        assert step.rows_in == rows_out and step.rows_in == step.rows_out + step.set_aside
        assert step.set_aside == int((set_aside["step"] == step.step).sum())
        rows_out = step.rows_out
    if session.stopped is None:
        assert sum(session.sides.values()) == rows_out == len(all_rows(session))
        ids = [*all_rows(session)["row_id"], *set_aside["row_id"]]
        assert len(ids) == len(set(ids)) == rows_in
    assert list(set_aside.columns) == ["row_id", "step", "reason", "before", "after"]
    assert all(isinstance(reason, str) and reason for reason in set_aside["reason"])


def test_preparation_gives_every_row_a_side_or_a_reason(tmp_path: Path) -> None:
    texts = [sentence(index) for index in range(60)]
    twin = texts[5] + " \n"
    near = texts[6] + " end"

    session = prepare(
        samples([*texts, twin, near, "", "Mail jane.doe@corp.example about it, please."]), tmp_path
    )

    check_account(session, 64)
    set_aside = pd.read_parquet(tmp_path / "set_aside.parquet").set_index("row_id")
    assert set_aside.loc[[61, 62], "reason"].tolist() == [
        "duplicate of row 6",
        "near-duplicate of row 7",
    ]
    assert set_aside.loc[63, "reason"] == "text is empty"
    assert json.loads(set_aside.loc[61, "before"])["text"] == twin
    assert json.loads(set_aside.loc[61, "after"])["text"] == texts[5]

    changes = pd.read_parquet(tmp_path / "changes.parquet")
    assert changes[["row_id", "reason"]].values.tolist() == [[64, "EMAIL replaced"]]
    assert session.placeholders == {"EMAIL": 1} and session.step("cleaning").changed == 1
    assert set(session.frame("train")) >= {
        "row_id",
        "shape",
        "text",
        "group",
        "timestamp",
        "cluster",
        "characters",
    }
    assert {finding.check for finding in session.findings if finding.severity == "error"} == set()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("chunk_rows", [7, 50, 10_000])
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.processes)])
def test_preparation_gives_the_same_whatever_the_chunks_and_workers(
    tmp_path: Path, chunk_rows: int, workers: int
) -> None:
    texts = [sentence(index) for index in range(80)]
    rows = samples([*texts, *(text + " x" for text in texts[:20]), *texts[:5], *[""] * 5])

    whole = prepare(rows, tmp_path / "whole")
    config = PreparationConfig(chunk_rows=chunk_rows, workers=workers, cache_gigabytes=0.0)
    chunked = prepare([rows.iloc[:33], rows.iloc[33:]], tmp_path / "parts", config=config)
    assert chunked.account == whole.account and chunked.sides == whole.sides
    for side in whole.sides:
        pd.testing.assert_frame_equal(chunked.frame(side), whole.frame(side))

    for name in ("set_aside", "changes", "flags"):
        frames = [
            pd.read_parquet(session.folder / f"{name}.parquet").sort_values("row_id")
            for session in (whole, chunked)
        ]
        assert frames[0].values.tolist() == frames[1].values.tolist()


def cached(folder: Path, texts: Sequence[str], **options: Any) -> set[str]:
    """Prepare with a cache and return the chunks in it."""
    config = PreparationConfig(chunk_rows=20, workers=1, cache_dir=str(folder / "cache"))
    prepare(samples(texts), folder / "out", config=config, **options)
    return {str(path) for path in (folder / "cache").rglob("rows.parquet")}


def test_preparation_does_nothing_twice(tmp_path: Path) -> None:
    texts = [sentence(index) for index in range(160)]
    first = cached(tmp_path, texts)

    assert len(first) > 5
    assert cached(tmp_path, texts) == first
    assert len(cached(tmp_path, [*texts, sentence(160)]) - first) == 1
    assert (
        len(cached(tmp_path, texts, split=SplitConfig(test_share=0.3)) - first) == 1
    )  # only the row added before

    with_markup = cached(tmp_path, texts, cleaning=CleaningConfig(strip_markup=False))
    assert len(with_markup) >= 2 * len(first)


def word_vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Bags of letters as unit vectors: a real, very small embedding."""
    vectors = np.array(
        [[text.count(letter) + 1e-3 for letter in LETTERS] for text in texts], dtype=np.float32
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_preparation_checks_vectors_and_caches_them(tmp_path: Path) -> None:
    calls: list[int] = []

    def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        calls.append(len(texts))
        return word_vectors(texts)

    rows = samples([sentence(index) for index in range(100)])
    reference = samples([sentence(index, words=60) for index in range(200, 300)])
    config = PreparationConfig(workers=1, cache_dir=str(tmp_path / "cache"))
    options: dict[str, Any] = {
        "encoder": TextEncoder(encode=vectors, identity="letters"),
        "reference": reference,
        "config": config,
    }
    session = prepare(rows, tmp_path / "out", **options)
    findings = {finding.check: finding for finding in session.findings}
    assert findings["drift.length"].severity == "warning" and findings["drift.length"].measure > 0.9
    assert findings["rows.outlier"].judged == 100 and sum(calls) == 200
    prepare(rows, tmp_path / "out", split=SplitConfig(test_share=0.3), **options)
    assert sum(calls) == 200


def test_drift_takes_the_vectors_that_the_previous_session_was_checked_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drift looks at fewer rows than the checks of a session do.
    monkeypatch.setattr("tunetrail.data.checks.drift.MOST_ROWS", 40)
    calls: list[int] = []

    def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        calls.append(len(texts))
        return word_vectors(texts)

    before, now = (samples([sentence(index + start) for index in range(60)]) for start in (0, 500))
    encoder = TextEncoder(encode=vectors, identity="letters")
    config = PreparationConfig(workers=1, cache_dir=str(tmp_path / "cache"))

    prepare(before, tmp_path / "before", encoder=encoder, config=config)
    session = prepare(now, tmp_path / "now", encoder=encoder, config=config, reference=before)
    cached = {finding.check: finding.measure for finding in session.findings}
    alone = prepare(now, tmp_path / "alone", encoder=encoder, reference=before)
    computed = {finding.check: finding.measure for finding in alone.findings}

    # The last preparation has no cache, so it makes the vectors of the sample as well.
    assert calls == [60, 60, 60, 40]
    assert cached == computed and "drift.embedding" in cached


def test_preparation_copies_a_session_that_was_prepared_before(tmp_path: Path) -> None:
    calls: list[int] = []

    def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        calls.append(len(texts))
        return word_vectors(texts)

    # With findings of every kind: examples, duplicates that are dropped, and drift.
    texts = [sentence(index) for index in range(100)]
    rows = samples([*texts, texts[0], " ".join(["another", *texts[1].split()[1:]]), ""])
    cache = tmp_path / "cache"
    options: dict[str, Any] = {
        "encoder": TextEncoder(encode=vectors, identity="letters"),
        "reference": samples([sentence(index, words=60) for index in range(200, 300)]),
        "config": PreparationConfig(workers=1, cache_dir=str(cache)),
    }
    first = prepare(rows, tmp_path / "first", **options)
    # Whoever checks the rows again has to make the vectors again.
    for file in cache.rglob("vectors.npy"):
        file.unlink()
    calls.clear()

    second = prepare(rows, tmp_path / "second", **options)

    assert calls == []
    assert replace(second, folder=first.folder) == first
    files = [path for path in sorted(first.folder.rglob("*")) if path.is_file()]
    assert len(files) == 7
    for file in files:
        copy = second.folder / file.relative_to(first.folder)
        assert copy.read_bytes() == file.read_bytes()
        assert copy.stat().st_mode == file.stat().st_mode


def test_preparation_copies_no_session_of_other_settings_or_a_broken_one(tmp_path: Path) -> None:
    rows = samples([sentence(index) for index in range(30)])
    cache = tmp_path / "cache"
    options: dict[str, Any] = {
        "config": PreparationConfig(workers=1, cache_dir=str(cache)),
        "encoder": TextEncoder(encode=word_vectors, identity="letters"),
    }

    def kept() -> set[Path]:
        return set(cache.rglob("session.json"))

    first = prepare(rows, tmp_path / "out", **options)
    (of_first,) = kept()
    split = prepare(rows, tmp_path / "out", split=SplitConfig(test_share=0.3), **options)
    prepare(rows, tmp_path / "out", reference=rows, **options)
    labels = ValidationConfig(max_rejected_share=0.9)
    prepare(rows, tmp_path / "out", validation=labels, **options)
    prepare(rows.iloc[1:], tmp_path / "out", **options)
    assert len(kept()) == 5 and split.sides != first.sides

    for name in ("train.parquet", "session.json"):
        of_first.with_name(name).write_bytes(b"PAR1")
        again = prepare(rows, tmp_path / "out", **options)
        assert again == first and len(again.frame("train")) == first.sides["train"]
        assert json.loads(of_first.read_text())["sides"] == dict(first.sides)


def test_preparations_at_once_make_the_rows_and_vectors_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        calls.append(len(texts))
        return word_vectors(texts)

    config = PreparationConfig(workers=1, cache_dir=str(tmp_path / "cache"))
    encoder = TextEncoder(encode=vectors, identity="letters")
    rows = samples([sentence(index) for index in range(100)])
    caplog.set_level(logging.INFO)

    # As the jobs of a sweep do; each thread opens the locks itself, as a process would.
    with ThreadPoolExecutor(3) as threads:
        jobs = [
            threads.submit(prepare, rows, tmp_path / f"job-{job}", encoder=encoder, config=config)
            for job in range(3)
        ]
        sessions = [job.result() for job in jobs]

    assert sum(calls) == 100
    assert caplog.messages.count("another process makes the prepared rows: waiting for it") == 2
    frames = [session.frame("train") for session in sessions]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


def test_preparation_stops_at_an_error_finding_and_writes_all_the_same(tmp_path: Path) -> None:
    rows = samples([sentence(index) if index % 3 else "" for index in range(30)])

    strict = CheckConfig(severity="error", threshold=0.1, set_aside=True)
    validation = ValidationConfig(rows=RowChecksConfig(empty=strict))
    session = prepare(rows, tmp_path, validation=validation)
    assert session.stopped is not None
    assert session.stopped.startswith(
        "validation found 1 error: rows.empty: 10 of 30 rows, set aside: texts are empty"
    )
    assert "validation.rows.empty.threshold" in session.stopped
    assert len(pd.read_parquet(tmp_path / "set_aside.parquet")) == 10
    assert json.loads((tmp_path / "summary.json").read_text())["stopped"] == session.stopped


def test_preparation_stops_above_the_rejected_share(tmp_path: Path) -> None:
    rows = samples(["fine", "", "", "x" * 9])

    session = prepare(rows, tmp_path, validation=ValidationConfig(max_characters=8))
    assert session.stopped is not None
    assert (
        "rejected rows must be at most 50% of all, got 3 of 4; most common reason: text is empty (2 rows)"
        in session.stopped
    )


def test_preparation_stops_where_nothing_can_be_split(tmp_path: Path) -> None:
    session = prepare(samples(["one text", "another text"]), tmp_path)
    assert session.stopped is not None and "at least 3 clusters" in session.stopped
    assert session.sides == {"train": 0, "validation": 0, "test": 0}


def test_preparation_refuses_no_rows_and_several_shapes(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="rows must hold at least one embedding sample, got 0"):
        prepare(samples([]), tmp_path)

    mixed = rows_frame(
        (
            row_id,
            Sample(
                kind=SampleKind.EMBEDDING, shape=shape, content={"text": sentence(row_id), **more}
            ),
        )
        for row_id, (shape, more) in enumerate(
            [("text", {}), ("label", {"label": "l"}), ("label", {"label": "m"})]
        )
    )

    with pytest.raises(
        SampleError,
        match=r"one shape, got label \(2\), text \(1\). Choose one, for example embedding.shape=label",
    ):
        prepare(mixed, tmp_path)


def preferences(count: int) -> pd.DataFrame:
    return rows_frame(
        (
            row_id,
            Sample(
                kind=SampleKind.LLM,
                shape="preference",
                content={
                    "prompt": sentence(row_id),
                    "chosen": sentence(1000 + row_id),
                    "rejected": sentence(2000 + row_id % 10),
                },
                weight=0.5 if row_id % 2 else None,
            ),
        )
        for row_id in range(count)
    )


def test_preparation_takes_preferences_and_their_weights_to_the_sides(tmp_path: Path) -> None:
    session = prepare(preferences(40), tmp_path, kind=SampleKind.LLM)
    assert session.stopped is None and sum(session.sides.values()) == 40
    weights = {record["row_id"]: record.get("weight") for record in records_of(all_rows(session))}
    assert weights == {row_id: 0.5 if row_id % 2 else None for row_id in range(40)}


def test_preparation_refuses_preferences_among_other_samples(tmp_path: Path) -> None:
    content = {"input": sentence(1), "output": sentence(2)}
    completions = rows_frame(
        [(9, Sample(kind=SampleKind.LLM, shape="completion", content=content))]
    )

    with pytest.raises(
        SampleError,
        match=r"must all have one objective, got preference \(3\), completion \(1\). "
        "Choose one, for example llm.objective=preference",
    ):
        prepare(
            pd.concat([preferences(3), completions], ignore_index=True),
            tmp_path,
            kind=SampleKind.LLM,
        )


def labelled(pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    return rows_frame(
        (
            row_id,
            Sample(
                kind=SampleKind.EMBEDDING, shape="label", content={"text": text, "label": label}
            ),
        )
        for row_id, (text, label) in enumerate(pairs)
    )


def test_preparation_flags_contradictions_and_sets_them_aside_when_asked(tmp_path: Path) -> None:
    rows = labelled(
        [*((sentence(index), "ab"[index % 2]) for index in range(30)), (sentence(3), "a")]
    )

    session = prepare(rows, tmp_path / "kept")
    (finding,) = (finding for finding in session.findings if finding.check == "rows.contradictory")
    assert finding.row_ids == (3, 30) and session.step("validation").set_aside == 0
    assert finding.examples[0].text == sentence(3)

    checks = RowChecksConfig(contradictory=CheckConfig(set_aside=True))
    session = prepare(rows, tmp_path / "dropped", validation=ValidationConfig(rows=checks))
    check_account(session, 31)
    assert session.step("validation").reasons == {"contradictory: same input, other target": 2}


def test_preparation_measures_the_balance_of_labels(tmp_path: Path) -> None:
    rows = labelled([(sentence(index), "rare" if index < 2 else "common") for index in range(60)])

    labels = LabelChecksConfig(imbalance=CheckConfig(threshold=10.0))
    session = prepare(rows, tmp_path, validation=ValidationConfig(labels=labels))
    (finding,) = (finding for finding in session.findings if finding.check == "labels.imbalance")
    assert (finding.severity, finding.measure, finding.rows) == ("warning", 29.0, 0)
    assert "'common' has 58 rows, 'rare' 2" in finding.message


def test_preparation_splits_by_time_where_every_row_has_one(tmp_path: Path) -> None:
    rows = pd.concat(
        [
            samples([sentence(index)], timestamp=f"2026-01-{1 + index % 28:02d}T00:00:00+00:00")
            for index in range(56)
        ],
        ignore_index=True,
    ).assign(row_id=np.arange(56))

    session = prepare(rows, tmp_path)
    assert session.method == "time"

    newest = {side: max(session.frame(side)["timestamp"]) for side in session.sides}
    oldest = {side: min(session.frame(side)["timestamp"]) for side in session.sides}
    assert newest["train"] <= oldest["validation"] <= newest["validation"] <= oldest["test"]


WORDS = st.sampled_from(
    ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "\x00", "<b>x</b>"]
)
TEXTS = (
    st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=20) | st.none() | st.integers()
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=30),
    chunk_rows=st.integers(1, 40),
    similarity=st.sampled_from([0.0, 0.8]),
)
def test_preparation_accounts_for_every_row(
    tmp_path_factory: pytest.TempPathFactory, texts: list[Any], chunk_rows: int, similarity: float
) -> None:
    config = PreparationConfig(chunk_rows=chunk_rows, workers=1, cache_gigabytes=0.0)
    session = prepare(
        samples(texts),
        tmp_path_factory.mktemp("prepared"),
        config=config,
        validation=ValidationConfig(max_rejected_share=1.0),
        cleaning=CleaningConfig(near_duplicate_similarity=similarity),
    )
    check_account(session, len(texts))


def variants(text: str, generator: np.random.Generator) -> Iterator[str]:
    words = text.split(" ")
    position = int(generator.integers(len(words)))
    yield text
    yield text.upper() + "!"
    yield " ".join([*words[:position], "other", *words[position + 1 :]])
    yield " ".join([*words[:position], "added", *words[position:]])
    yield " ".join([*words[:position], *words[position + 1 :]])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), words=st.integers(8, 60), count=st.integers(3, 12))
def test_planted_twins_never_straddle_a_split(
    tmp_path_factory: pytest.TempPathFactory, seed: int, words: int, count: int
) -> None:
    generator = np.random.default_rng(seed)
    originals = [sentence(int(generator.integers(2**31)), words) for _ in range(count)]
    planted = [
        (variant, origin)
        for origin, text in enumerate(originals)
        for variant in variants(text, generator)
    ]

    rows = rows_frame(
        (
            int(row_id),
            Sample(
                kind=SampleKind.EMBEDDING,
                shape="text",
                content={"text": planted[position][0]},
                group="shared" if planted[position][1] < 2 and position % 5 == 0 else None,
            ),
        )
        for row_id, position in enumerate(generator.permutation(len(planted)))
    )

    origin_of = {text: origin for text, origin in planted}
    cleaning = CleaningConfig(drop_duplicates=False, near_duplicate_similarity=0.0)
    session = prepare(rows, tmp_path_factory.mktemp("prepared"), cleaning=cleaning)
    if session.stopped is not None:
        assert (
            count <= 3 and "at least 3 clusters" in session.stopped
        )  # two of three originals share a group
        return
    sides: dict[int, set[str]] = {}
    for side in session.sides:
        for text in session.frame(side)["text"]:
            origin = origin_of[text]
            sides.setdefault(0 if origin < 2 else origin, set()).add(side)
    assert all(len(sides_of_origin) == 1 for sides_of_origin in sides.values()), sides

    session.split()


def test_preparation_makes_a_broken_cached_chunk_again(tmp_path: Path) -> None:
    texts = [sentence(index) for index in range(60)]
    first = cached(tmp_path, texts)

    broken = Path(sorted(first)[0]).with_name("counts.json")
    broken.write_text("")
    Path(sorted(first)[1]).write_bytes(b"PAR1")
    assert cached(tmp_path, texts) == first and json.loads(broken.read_text())["cleaned"] > 0


class Words:
    """Counts words."""

    max_length = 10
    identity = "words"

    def of_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.array([len(text.split()) for text in texts], dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
        return self.of_texts([record["text"] for record in records])


def test_preparation_sets_long_rows_aside_when_asked(tmp_path: Path) -> None:
    rows = samples([sentence(index, words=8 if index % 5 else 12) for index in range(60)])
    checks = RowChecksConfig(too_many_tokens=CheckConfig(set_aside=True))
    for length, step in (("keep", "validation"), ("drop", "cleaning")):
        steps = ChunkSteps(
            kind=SampleKind.EMBEDDING,
            validation=ValidationConfig(rows=checks),
            cleaning=CleaningConfig(length=length),
            counter=Words(),
        )
        config = PreparationConfig(workers=1, cache_gigabytes=0.0)
        preparation = Preparation(steps=steps, split=SplitConfig(), config=config, seed=0)
        session = preparation.run([rows], tmp_path / length)
        check_account(session, 60)
        assert session.step(step).set_aside == 12


def test_preparation_refuses_a_length_policy_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cleaning\.length must be keep if the model isn't found, got 'drop'"
    ):
        prepare(samples(["a b c"]), tmp_path, cleaning=CleaningConfig(length="drop"))


def test_preparation_keeps_nothing_unmasked_of_a_conversation_out_of_order(tmp_path: Path) -> None:
    content = "call me\n+49 170 1234567\nor joe@corp.example"
    turns = [{"role": "assistant", "content": content}, {"role": "user", "content": "no"}]

    rows = rows_frame([(1, Sample(kind=SampleKind.LLM, shape="chat", content={"messages": turns}))])

    prepare(rows, tmp_path, kind=SampleKind.LLM)
    before = "".join(pd.read_parquet(tmp_path / "set_aside.parquet")["before"])
    assert (
        "[PHONE]" in before
        and "[EMAIL]" in before
        and "1234567" not in before
        and "joe@" not in before
    )


def test_preparation_of_rows_that_all_go_says_which_way(tmp_path: Path) -> None:
    session = prepare(samples(["\x00", "\x01", "\x02"]), tmp_path)

    assert session.stopped is not None
    assert (
        "no row is left to split; most common reason in cleaning: text is empty after cleaning"
        in session.stopped
    )

    check_account(session, 3)
