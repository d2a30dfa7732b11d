"""Error analysis of a run: slices, the rows that were fixed and broken, and the worst rows."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from tunetrail.data.privacy.scrubber import Scrubber
from tunetrail.data.rows import content_text, records_of, shown, texts_of
from tunetrail.data.splits import Split
from tunetrail.evaluation.answers import WRITTEN
from tunetrail.evaluation.error_analysis import (
    MOST_LISTED,
    RowChanges,
    label_confusion,
    most_confused,
    row_changes,
)
from tunetrail.evaluation.example_rows import REFERENCE, TEST, ExampleRows
from tunetrail.evaluation.plots import confusion_figure, slices_figure
from tunetrail.evaluation.ranking import BEST_RANK, PREDICTED_LABEL
from tunetrail.evaluation.shape_scorers import TOP_WRONG_HASH, TOP_WRONG_ROW
from tunetrail.evaluation.slice_changes import sure_losses
from tunetrail.evaluation.slices import attributes_of, score_slices, weakest_first
from tunetrail.fingerprints import value_fingerprint
from tunetrail.paths import write_private_text
from tunetrail.pipeline.answers import prompt_and_answer
from tunetrail.pipeline.example_rows import FOLDER
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.reporting.charts import png

SLICES, CONFUSIONS, EXAMPLES = "slices.csv", "confusions.csv", "examples.json"
TOKENS = "tokens.json"
# Columns of example rows that tell what a model did with a row.
_OUTCOME_COLUMNS = (
    "label",
    PREDICTED_LABEL,
    REFERENCE + PREDICTED_LABEL,
    BEST_RANK,
    REFERENCE + BEST_RANK,
)


def log_error_analysis(
    context: StageContext,
    split: Split,
    rows: ExampleRows,
    tokens: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Write slices, confusions, tokens and examples to the run's folder `evaluation`.

    Args:
        context: The run.
        split: The sides of its rows.
        rows: The scores of both models on every row.
        tokens: What `costly_tokens` returns.

    Returns:
        What the terminal tells of it: when a row is right, how many were fixed and broken, how many
        slices were compared, the worst and the weakest of them, and all with a sure loss.
    """
    run, settings = context.run, context.settings
    table = rows.table[rows.table["side"] == TEST]
    changes = row_changes(rows)
    mask = Scrubber(settings.cleaning.privacy).mask
    _log_text(context, EXAMPLES, _examples_json(table, changes, split, mask, tokens))
    if tokens is not None:
        run.log_table(tokens, f"{FOLDER}/{TOKENS}")

    confusion = label_confusion(rows)
    if confusion is not None and len(confusion):
        run.log_picture(png(confusion_figure(confusion)), f"{FOLDER}/confusion.png")
        _log_text(context, CONFUSIONS, most_confused(confusion).to_csv(index=False))

    slices = score_slices(
        rows.scores(REFERENCE),
        rows.scores(),
        attributes_of(table, rows.run.own_columns),
        confidence=settings.evaluation.confidence,
        seed=settings.seed,
    )
    _log_text(context, SLICES, slices.to_csv(index=False))
    if len(slices):
        run.log_picture(png(slices_figure(slices, rows.run.metric)), f"{FOLDER}/slices.png")

    return {
        **changes.to_dict(),
        "slices": len(slices),
        "worst_slice": _first_line(slices),
        "weakest_slice": _first_line(weakest_first(slices)),
        "losing_slices": [change.to_dict() for change in sure_losses(slices)],
    }


def _first_line(slices: pd.DataFrame) -> dict[str, Any] | None:
    """Return the first slice as plain values; None if there is none."""
    if slices.empty:
        return None
    # By way of JSON, which turns NumPy's numbers into Python's and NaN into None.
    line: dict[str, Any] = json.loads(
        slices.head(1).to_json(orient="records", double_precision=15)
    )[0]
    return line


def _log_text(context: StageContext, file: str, text: str) -> None:
    """Write a file that only its owner can read, since it may quote samples, as an artifact."""
    path = context.state.folder / file
    write_private_text(path, text)
    context.run.log_artifact(path, FOLDER)


def _examples_json(
    table: pd.DataFrame,
    changes: RowChanges,
    split: Split,
    mask: Callable[[str], str],
    tokens: pd.DataFrame | None,
) -> str:
    """Return the rows that were fixed, those that were broken and the worst ones, with texts.

    Of a language model, also the rows with the highest loss, with their costliest tokens.
    """
    lists = {"fixes": changes.fixes, "breaks": changes.breaks, "worst": changes.worst}
    if tokens is not None:
        lines = changes.table.set_index("row_id", drop=False)
        lists["highest_loss"] = lines.loc[tokens["row_id"].unique()]
    outcomes = table.set_index("row_id")
    listed = {name: chosen.head(MOST_LISTED) for name, chosen in lists.items()}

    row_ids = pd.concat([chosen["row_id"] for chosen in listed.values()]).dropna().unique()
    wanted_ids = set(row_ids)
    if TOP_WRONG_ROW in table:
        wanted_ids |= set(outcomes.loc[row_ids, TOP_WRONG_ROW].dropna())
    records = _records_by_id(split, wanted_ids)

    content: dict[str, Any] = changes.to_dict()
    for name, chosen in listed.items():
        content[name] = [
            _described(line, outcomes, records, mask) for line in chosen.to_dict("records")
        ]
    if tokens is not None:
        for example in content["highest_loss"]:
            of_row = tokens[tokens["row_id"] == example["row_id"]].drop(columns="row_id")
            example["tokens"] = json.loads(of_row.to_json(orient="records"))
    return json.dumps(content, ensure_ascii=False, indent=1, default=float)


def _records_by_id(split: Split, row_ids: set[int]) -> dict[int, dict[str, Any]]:
    """Return the rows of any side with these ids."""
    records: dict[int, dict[str, Any]] = {}
    for side in (split.test, split.train, split.validation):
        chosen = side[side["row_id"].isin(row_ids)]
        records.update(zip(chosen["row_id"], records_of(chosen), strict=True))
    return records


def _described(
    line: Mapping[Any, Any],
    outcomes: pd.DataFrame,
    records: Mapping[int, Mapping[str, Any]],
    mask: Callable[[str], str],
) -> dict[str, Any]:
    """Return a row of a list with its content, and of a ranking what came before its right one."""
    row_id = line["row_id"] if pd.notna(line["row_id"]) else None
    described = {"row_id": row_id, "before": line["before"], "after": line["after"]}
    if row_id is None or row_id not in records:
        return described

    outcome = outcomes.loc[row_id]
    present = outcome.reindex(list(_OUTCOME_COLUMNS)).dropna()
    described |= {**present, "content": content_text(records[row_id], mask)}
    if isinstance(outcome.get(WRITTEN), str):
        described["expected"] = shown(prompt_and_answer(records[row_id], mask)[1])
    for name in (WRITTEN, REFERENCE + WRITTEN):
        if isinstance(outcome.get(name), str):
            described[name] = shown(outcome[name], mask)
    # Only if it stands in the right answer's place.
    if outcome.get(BEST_RANK, 1.0) > 1.0 and outcome[TOP_WRONG_ROW] in records:
        wrong = records[outcome[TOP_WRONG_ROW]]
        texts = texts_of(wrong)
        matching = [text for text in texts if value_fingerprint([text]) == outcome[TOP_WRONG_HASH]]
        described["first_instead"] = shown((matching or texts)[0], mask)
    return described
