"""Names that tell runs apart: the session, the models, and what differs from the defaults."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from tunetrail.config import MODEL_SECTIONS, Settings
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.run_settings import leaves
from tunetrail.reporting.readable import readable

_SHOWN_CHANGES = 4
_LONGEST_VALUE = 24
_EXPERIMENTS = "experiments"
_WITHOUT_QUOTES = str.maketrans("", "", "[]\"'")
# Where a run is kept, or how fast its rows are read, says nothing about its model.
_UNNAMED = ("output_dir", "model_dir", "database", "tracking", "preparation", "sweep", "watch")


def run_name(
    settings: Settings,
    session: str,
    families: Sequence[ModelFamily],
    changes: Sequence[str] | None = None,
) -> str:
    """Return the name of a run, such as `learning_rate=3e-05: embedding minilm on s1`.

    What tells runs apart comes first, as MLflow's table cuts off the end.

    Args:
        settings: All that was set.
        session: What the rows are called.
        families: The families that the run trains.
        changes: What was changed, in words; None for the values that differ from the defaults, the
            training's first. At most four are named.
    """
    models = []
    for family in families:
        # A folder or an id of a hub is known by its last component.
        model = PurePath(family.section(settings).model).name
        models.append(f"{family.name} {readable(model, _LONGEST_VALUE)}")

    if changes is None:
        changes = list(_changes_in_words(settings, families))
    hidden = len(changes) - _SHOWN_CHANGES
    more = [f"and {hidden} more"] if hidden > 0 else []
    shown = ", ".join([*changes[:_SHOWN_CHANGES], *more])
    trained = f"{' + '.join(models)} on {session}"
    return f"{shown}: {trained}" if shown else trained


def typed_changes(overrides: Sequence[str]) -> list[str] | None:
    """Return what overrides change, their experiment first; None if they choose no experiment.

    An experiment sets many values at once, so its name says more than the first of them.
    """
    values = {}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        values[key] = readable(value, _LONGEST_VALUE).translate(_WITHOUT_QUOTES)
    experiment = values.pop(_EXPERIMENTS, None)
    if experiment is None:
        return None

    # The request, and what else is told by other words of the name, or tells nothing of the model.
    told = ("session_id", "model_type", "hydra", *MODEL_SECTIONS)
    changed = [
        key
        for key in values
        if key not in told and key.partition(".")[0] not in ("hydra", *_UNNAMED)
    ]
    return [experiment, *(f"{_short(key, changed)}={values[key]}" for key in changed)]


def _short(key: str, keys: Iterable[str]) -> str:
    """Return the last name of a key, or all of it if other keys have the same."""
    name = key.rpartition(".")[2]
    return name if sum(other.rpartition(".")[2] == name for other in keys) == 1 else key


def _changes_in_words(settings: Settings, families: Sequence[ModelFamily]) -> Iterator[str]:
    """Yield `name=value` for each setting that differs from its default."""
    changes = _changes(settings, families)
    keys = [key for key, _ in changes]
    for key, value in changes:
        yield f"{_short(key, keys)}={_value_in_words(value)}"


def _changes(settings: Settings, families: Sequence[ModelFamily]) -> list[tuple[str, Any]]:
    """Return the settings that differ from their defaults with their keys, the training's first."""
    values, defaults = dataclasses.asdict(settings), dataclasses.asdict(Settings())
    sections = [family.section(settings) for family in families]
    unnamed = set(_UNNAMED)
    for name in MODEL_SECTIONS:
        if all(getattr(settings, name) is not section for section in sections):
            unnamed.add(name)

    default_of = dict(leaves(defaults))
    changes = []
    for key, value in leaves(values):
        is_model = key.partition(".")[2] == "model"
        if key.partition(".")[0] in unnamed or is_model or key not in default_of:
            continue
        if value != default_of[key]:
            changes.append((key, value))
    return sorted(changes, key=lambda change: ".training." not in change[0])


def _value_in_words(value: Any) -> str:
    """Return a value in few characters, as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return readable(f"[{','.join(map(_value_in_words, value))}]", _LONGEST_VALUE)
    # A quotation mark in a name would keep MLflow's filters from finding it.
    return readable("null" if value is None else value, _LONGEST_VALUE).replace('"', "'")
