"""Shows what planted twins do to a cross-validated score where folds are cut by rows, and where by clusters.

The truth is a hold-out of rows that have no twin, scored by the very models of the folds. Chooses nothing: shares,
seeds and learners stand below, and every line is printed. `.venv/bin/python experiments/twins_in_folds.py` takes a few
minutes; on a machine that does other work too, OMP_NUM_THREADS=1 makes it faster.
"""

import argparse
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier

from tunetrail.config import SplitConfig
from tunetrail.data.rows import rows_frame
from tunetrail.data.splits import make_folds
from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.learning.embedding.module import load_embedding_model
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model
from tunetrail.samples import SampleKind, parse_sample

SESSION_ROWS = 800
"""Of every session, planted twins among them, so that all shares train on equally many rows."""
MOST_ROWS = 2_400
TWIN_SHARES = (0.0, 0.05, 0.20)
WRONG_LABELS = (0.0, 0.30)
FOLDS = 5
SHORTEST_WORDS = 7
"""Of all rows alike: originals of twins are then no longer than the rest, and one word is a small part of a text."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Cuts = list[tuple[Integers, Integers]]


class Learner(Protocol):
    """What learns a label (its number) from vectors."""

    def fit(self, vectors: Floats, labels: Integers) -> Any:
        """Learn from vectors [rows, dimensions] and labels [rows]."""

    def predict(self, vectors: Floats) -> Integers:
        """Return the label of each vector."""


class OneHotKernelRidge:
    """Kernel ridge regression on one-hot labels with an RBF kernel; the largest output is the label."""

    def fit(self, vectors: Floats, labels: Integers) -> "OneHotKernelRidge":
        """Learn from vectors [rows, dimensions] and labels [rows]."""
        self._model = KernelRidge(kernel="rbf", gamma=1.0, alpha=0.01)
        self._model.fit(vectors, np.eye(int(labels.max()) + 1)[labels])
        return self

    def predict(self, vectors: Floats) -> Integers:
        """Return the label of each vector."""
        label: Integers = self._model.predict(vectors).argmax(axis=1)
        return label


LEARNERS: dict[str, Callable[[], Learner]] = {
    "1-nearest neighbour": lambda: KNeighborsClassifier(n_neighbors=1),
    "kernel ridge": OneHotKernelRidge,
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Labelled texts without twins, one altered copy of each, and the vectors [rows, dimensions] of both."""

    texts: list[str]
    labels: list[str]
    twins: list[str]
    vectors: Floats
    twin_vectors: Floats


@dataclass(frozen=True, kw_only=True)
class Session:
    """The rows of one seed: those to cut into folds (twins last) and those held out."""

    rows: pd.DataFrame
    vectors: Floats
    labels: Integers
    originals: Integers
    held_out_vectors: Floats
    held_out_labels: Integers


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way of cutting one session: accuracy in the folds, and on the hold-out with its standard error."""

    folds: float
    held_out: float
    held_out_error: float


def read_pairs(data: str | None) -> list[tuple[str, str]]:
    """Return (text, label): a CSV's first columns, or docstrings and the package of each, the 20 commonest of them."""
    if data is None:
        rows = stdlib_docs(SampleKind.EMBEDDING)
        pairs = [(str(row["anchor"]), str(row["group"]).partition(".")[0]) for row in rows]
        commonest = 20
    else:
        frame = pd.read_csv(data, dtype=str, keep_default_na=False)
        pairs = list(zip(frame.iloc[:, 0], frame.iloc[:, 1], strict=True))
        commonest = len(pairs)
    pairs = [(text, label) for text, label in pairs if len(text.split()) >= SHORTEST_WORDS]
    kept = {label for label, _ in Counter(label for _, label in pairs).most_common(commonest)}
    return [pair for pair in pairs if pair[1] in kept]


def framed(pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Return the pairs as rows of a session."""
    samples = (
        parse_sample({"text": text, "label": label}, SampleKind.EMBEDDING) for text, label in pairs
    )
    return rows_frame(enumerate(samples))


def without_twins(pairs: Sequence[tuple[str, str]], similarity: float) -> list[tuple[str, str]]:
    """Return the first pair of each cluster of twins, at most `MOST_ROWS`, spread evenly over the table."""
    first = dict(
        zip(reversed(cluster_keys(framed(pairs), similarity)), reversed(pairs), strict=True)
    )
    kept = sorted(first.values(), key=lambda pair: zlib.crc32(pair[0].encode()))
    return kept[:MOST_ROWS]


def altered(text: str, changed_words: int, vocabulary: Sequence[str]) -> str:
    """Return the text with that many of its words replaced by others of the table; the same at every call."""
    generator = np.random.default_rng(zlib.crc32(text.encode()))
    words = text.split()
    for place in generator.choice(len(words), changed_words, replace=False):
        words[place] = next(
            word for word in generator.choice(vocabulary, 100) if word != words[place]
        )
    return " ".join(words)


def make_table(data: str | None, changed_words: int, similarity: float) -> Table:
    """Read a table, drop its own twins, alter each text once and encode all of them with MiniLM."""
    pairs = without_twins(read_pairs(data), similarity)
    texts = [text for text, _ in pairs]
    vocabulary = sorted({word for text in texts for word in text.split()})
    twins = [altered(text, changed_words, vocabulary) for text in texts]
    model = load_embedding_model(resolve_model("minilm", EMBEDDING_MODELS).path, max_length=128)
    vectors = model.encode([*texts, *twins], normalize_embeddings=True).astype(np.float64)
    return Table(
        texts=texts,
        labels=[label for _, label in pairs],
        twins=twins,
        vectors=vectors[: len(texts)],
        twin_vectors=vectors[len(texts) :],
    )


def draw_session(table: Table, twin_share: float, wrong_labels: float, seed: int) -> Session:
    """Draw `SESSION_ROWS` rows and plant twins of some among them; the rows of the table never drawn are held out.

    Both have their share of every label: of a label that the session has too often the hold-out would have too few.
    `twin_share` of the session's rows are altered copies, one each of as many different rows, with their label.
    Before that, the labels of `wrong_labels` of all rows change places, on the hold-out as in the session. As many of
    the rows held out, by share, are altered too, but without their originals: altered texts are harder to read.
    """
    generator = np.random.default_rng(seed)
    names, labels = np.unique(table.labels, return_inverse=True)
    wrong = generator.permutation(len(labels))[: round(wrong_labels * len(labels))]
    labels[wrong] = labels[generator.permutation(wrong)]
    drawn, held_out = train_test_split(
        np.arange(len(labels)), train_size=SESSION_ROWS, stratify=labels, random_state=seed
    )
    twins = round(twin_share * SESSION_ROWS)
    originals = drawn[: SESSION_ROWS - twins]
    changed = round(twin_share * len(held_out))
    places = np.concatenate((originals, originals[:twins]))
    texts = [table.texts[place] for place in originals] + [
        table.twins[place] for place in originals[:twins]
    ]
    return Session(
        rows=framed(
            (text, names[labels[place]]) for text, place in zip(texts, places, strict=True)
        ),
        vectors=np.concatenate((table.vectors[originals], table.twin_vectors[originals[:twins]])),
        labels=labels[places],
        originals=np.arange(twins),
        held_out_vectors=np.concatenate(
            (table.twin_vectors[held_out[:changed]], table.vectors[held_out[changed:]])
        ),
        held_out_labels=labels[held_out],
    )


def cut_by_rows(session: Session, seed: int) -> Cuts:
    """Return folds that know neither twins nor labels, as positions to train on and to score."""
    return list(KFold(FOLDS, shuffle=True, random_state=seed).split(session.vectors))


def cut_by_labels(session: Session, seed: int) -> Cuts:
    """Return folds that give each label its share, as tunetrail's do, but know nothing of twins."""
    cutter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A label may have fewer rows than there are folds.
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(cutter.split(session.vectors, session.labels))


def cut_by_clusters(session: Session, clusters: npt.NDArray[np.object_], seed: int) -> Cuts:
    """Return tunetrail's folds as positions to train on and to score."""
    folds = make_folds(session.rows.assign(cluster=clusters), FOLDS, seed)
    return [
        (fold.train["row_id"].to_numpy(), fold.validation["row_id"].to_numpy()) for fold in folds
    ]


def measure(session: Session, cuts: Cuts, learner: Callable[[], Learner]) -> Measured:
    """Train on each fold; score its held-out rows, and the clean hold-out with the same models."""
    in_folds, outside = [], []
    for train, scored in cuts:
        model = learner()
        model.fit(session.vectors[train], session.labels[train])
        in_folds.append(model.predict(session.vectors[scored]) == session.labels[scored])
        outside.append(model.predict(session.held_out_vectors) == session.held_out_labels)
    per_row = np.mean(outside, axis=0)
    return Measured(
        folds=float(np.concatenate(in_folds).mean()),
        held_out=float(per_row.mean()),
        held_out_error=float(per_row.std(ddof=1) / len(per_row) ** 0.5),
    )


def lines_of(
    table: Table, twin_share: float, wrong_labels: float, seeds: int, similarity: float
) -> Iterator[str]:
    """Run all seeds of one setting and yield a line of the Markdown table for each learner."""
    measured: dict[str, list[list[Measured]]] = {name: [] for name in LEARNERS}
    found, planted = 0, 0
    for seed in range(seeds):
        session = draw_session(table, twin_share, wrong_labels, seed)
        clusters = np.array(cluster_keys(session.rows, similarity), dtype=object)
        first_twin = SESSION_ROWS - len(session.originals)
        found += int((clusters[session.originals] == clusters[first_twin:]).sum())
        planted += len(session.originals)
        ways = [
            cut_by_rows(session, seed),
            cut_by_labels(session, seed),
            cut_by_clusters(session, clusters, seed),
        ]
        for name, learner in LEARNERS.items():
            measured[name].append([measure(session, cuts, learner) for cuts in ways])
    share_found = f"{found / planted:.1%}" if planted else "-"
    for name in LEARNERS:
        by_rows, by_labels, ours = zip(*measured[name], strict=True)
        error = float(np.mean([each.held_out_error for each in ours]))
        truth = f"{np.mean([each.held_out for each in ours]):.4f} ± {error:.4f}"
        cells = [name, f"{wrong_labels:.0%}", f"{twin_share:.0%}", share_found, truth]
        yield (
            "| "
            + " | ".join([*cells, *(_difference(way, error) for way in (by_rows, by_labels, ours))])
            + " |"
        )


def _difference(measured: Sequence[Measured], error: float) -> str:
    """Return folds minus hold-out, paired: the mean over the seeds ± its standard error; `!` if beyond `error`."""
    differences = np.array([each.folds - each.held_out for each in measured])
    mean, mean_error = (
        float(differences.mean()),
        float(differences.std(ddof=1) / len(differences) ** 0.5),
    )
    return f"{mean:+.4f} ± {mean_error:.4f}{' !' if abs(mean) > error else ''}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", help="CSV whose first columns are text and label; else Python's standard library"
    )
    parser.add_argument(
        "--seeds", type=int, default=20, help="sessions drawn for each line, seeds 0, 1, ..."
    )
    parser.add_argument("--words", type=int, default=1, help="words replaced in a twin")
    arguments = parser.parse_args()
    similarity = SplitConfig().near_duplicate_similarity
    table = make_table(arguments.data, arguments.words, similarity)
    source = Path(arguments.data).parent.name if arguments.data else "standard library"
    print(
        f"{source}: {len(table.texts)} rows without twins, {len(set(table.labels))} labels; sessions of {SESSION_ROWS} "
        f"rows in {FOLDS} folds, {len(table.texts) - SESSION_ROWS} held out; {arguments.seeds} seeds; "
        f"{arguments.words} words replaced\n"
    )
    print("`!`: further from the hold-out than one of its standard errors\n")
    print(
        "| learner | wrong labels | twins | found | hold-out | by rows | by rows, stratified | by clusters |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for wrong_labels in WRONG_LABELS:
        for twin_share in TWIN_SHARES:
            for line in lines_of(table, twin_share, wrong_labels, arguments.seeds, similarity):
                print(line, flush=True)


if __name__ == "__main__":
    main()
