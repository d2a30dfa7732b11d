"""Plan lines: what is known of a training as table and lines, for terminals and notebooks."""

from tunetrail.pipeline.planning.run_plan import FamilyPlan
from tunetrail.reporting.readable import counted, duration

COLUMNS = ("stage", "time", "what")
# What stages are called, if not by their name.
_STAGES = {"cross_validation": "cross-validation", "search": "learning rate"}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def stage_rows(plan: FamilyPlan) -> list[tuple[str, str, str]]:
    """Return the cells of each stage under `COLUMNS`, and of all stages together."""
    rows = [
        (_STAGES.get(stage.stage, stage.stage), duration(stage.seconds), stage.detail)
        for stage in plan.stages
    ]
    timed = f"from {counted(plan.speeds.steps, 'timed step')}"
    if plan.speeds.age_seconds:
        timed += f", {duration(plan.speeds.age_seconds)} ago"
    return [*rows, ("all", duration(plan.seconds), timed)]


def lines_of_work(plan: FamilyPlan) -> list[str]:
    """Return what is computed: rows, tokens, steps and padding."""
    work = plan.work
    rows = ", ".join(f"{side} {count:,}" for side, count in work.rows.items())
    steps, batch = counted(work.steps_per_epoch, "step"), counted(plan.batch_size, "row")
    epochs = f"{work.epochs:.3g} epoch{'' if work.epochs == 1.0 else 's'}"
    return [
        f"{plan.model_type}: {plan.base_model}, rows: {rows}",
        f"{epochs} of {plan.tokens_per_epoch:,} tokens and {steps}, in batches of {batch}, "
        f"{plan.speeds.padding_share:.0%} padding",
    ]


def lines_below(plan: FamilyPlan) -> list[str]:
    """Return memory, disk, the places of results, what should be known, and what was assumed."""
    memory, disk, places = plan.memory, plan.disk, plan.places
    version = "no version yet" if places.root_version is None else f"version {places.root_version}"

    return [
        f"memory: {in_units(memory.peak_bytes)} at most on {memory.device}, of "
        f"{in_units(memory.available_bytes)} that are available",
        f"disk: {in_units(disk['while_training'])} in {places.output_dir} while it trains, then "
        f"{in_units(disk['registered_version'])} for the registered version and "
        f"{in_units(disk['exported_folder'])} for the exported folder; "
        f"{in_units(places.free_bytes)} are free",
        f"run: experiment {places.experiment} in {places.tracking_uri}",
        f"registered: a new version of {places.registered_model}; the alias {places.alias} "
        f"({version}) moves to it if it is better, and {places.exported_to} follows",
        f"starts from: {places.starts_from}",
        *(f"note: {note}" for note in plan.notes),
        f"assumed: {'; '.join(plan.assumptions)}.",
        *([f"not included: {'; '.join(plan.not_included)}."] if plan.not_included else []),
    ]


def in_units(size: int) -> str:
    """Return a number of bytes with a unit, such as `1.5 GiB`."""
    value = float(size)
    for unit in _UNITS[:-1]:
        if value < 1000.0:
            return f"{value:.3g} {unit}"
        value /= 1024.0
    return f"{value:.3g} {_UNITS[-1]}"
