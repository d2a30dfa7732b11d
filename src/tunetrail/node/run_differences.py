"""What differs between a run and its repetition before any metric is compared: rows and weights."""

from tunetrail.node.recorded_family import RecordedFamily
from tunetrail.pipeline.environment import Difference
from tunetrail.pipeline.row_digests import SampleChanges


def row_differences(rows: SampleChanges | None) -> list[Difference]:
    """Return a difference for each row that is gone or says something else.

    Args:
        rows: What has become of the rows; None if the run kept no digests of them.
    """
    if rows is None:
        return []
    kinds = {"is gone": rows.removed, "has changed": rows.changed}
    return [
        Difference(kind="row", name=f"{row_id} {what}")
        for what, row_ids in kinds.items()
        for row_id in row_ids
    ]


def benchmark_differences(then: RecordedFamily, now: RecordedFamily) -> list[Difference]:
    """Return a difference if rows of earlier sessions have left the benchmark since."""
    scored = len(then.benchmark_row_ids)
    lost = scored - len(now.benchmark_row_ids)
    if not lost:
        return []
    name = f"{lost} of {scored} rows of earlier sessions have left the benchmark"
    return [Difference(kind="row", name=name)]


def input_differences(then: RecordedFamily, now: RecordedFamily) -> list[Difference]:
    """Return which prepared rows and which first weights differ."""
    sides = {(session, purpose): digest for session, purpose, digest in then.sides()}
    differences = [
        Difference(
            kind="prepared rows",
            name=f"digest of the {purpose} rows of {session}",
            then=sides.get((session, purpose)),
            now=digest,
        )
        for session, purpose, digest in sorted(now.sides() - then.sides())
    ]

    old, new = then.training, now.training
    if old.get("start_digest") not in (None, new["start_digest"]):
        name = f"digest of {old['started_from']}"
        differences.append(
            Difference(kind="model", name=name, then=old["start_digest"], now=new["start_digest"])
        )

    return differences
