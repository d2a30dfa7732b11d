"""The text of `tunetrail plan`: a few lines and a table of stages for each model type."""

from collections.abc import Iterator

from rich.console import Console

from tunetrail.cli.terminal import new_table, print_line
from tunetrail.pipeline.planning.run_plan import FamilyPlan, RunPlan
from tunetrail.reporting.readable import counted, duration

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STAGES = {"cross_validation": "cross-validation", "search": "learning rate"}
"""What stages are called, if not by their name."""


def print_plan(plan: RunPlan) -> None:
    """Print what a training will take."""
    console = Console()
    for family in plan.families.values():
        _print_family(family, console)

    whole = f"The training takes about {duration(plan.seconds)}"
    if len(plan.families) > 1:
        whole += f" for {' and '.join(plan.families)}"
    print_line(console, f"{whole}. This plan took {duration(plan.planning_seconds)}.")


def _print_family(plan: FamilyPlan, console: Console) -> None:
    for line in _lines_of_work(plan):
        print_line(console, line)

    table = new_table("stage", "time", "what")
    for stage in plan.stages:
        name = _STAGES.get(stage.stage, stage.stage)
        table.add_row(name, duration(stage.seconds), stage.detail)
    table.add_row("all", duration(plan.seconds), f"from {plan.speeds.steps} timed steps")
    console.print(table)

    for line in (*_lines_of_cost(plan), *_lines_of_places(plan)):
        print_line(console, line)
    for note in plan.notes:
        print_line(console, f"note: {note}")
    print_line(console, f"assumed: {'; '.join(plan.assumptions)}.")
    console.print()


def _lines_of_work(plan: FamilyPlan) -> Iterator[str]:
    work = plan.work
    rows = ", ".join(f"{side} {count:,}" for side, count in work.rows.items())
    yield f"{plan.model_type}: {plan.base_model}, rows: {rows}"
    steps, batch = counted(work.steps_per_epoch, "step"), counted(plan.batch_size, "row")
    epochs = f"{work.epochs:.3g} epoch{'' if work.epochs == 1.0 else 's'}"
    yield (
        f"{epochs} of {plan.tokens_per_epoch:,} tokens and {steps}, in batches of {batch}, "
        f"{plan.speeds.padding_share:.0%} padding"
    )


def _lines_of_cost(plan: FamilyPlan) -> Iterator[str]:
    memory, disk = plan.memory, plan.disk
    yield (
        f"memory: {in_units(memory.peak_bytes)} at most on {memory.device}, of "
        f"{in_units(memory.available_bytes)} that are available"
    )
    yield (
        f"disk: {in_units(disk['while_training'])} in {plan.places.output_dir} while it trains, "
        f"then {in_units(disk['registered_version'])} for the registered version and "
        f"{in_units(disk['exported_folder'])} for the exported folder; "
        f"{in_units(plan.places.free_bytes)} are free"
    )


def _lines_of_places(plan: FamilyPlan) -> Iterator[str]:
    places = plan.places
    yield f"run: experiment {places.experiment} in {places.tracking_uri}"
    now = "no version yet" if places.root_version is None else f"version {places.root_version}"
    yield (
        f"registered: a new version of {places.registered_model}; the alias {places.alias} "
        f"({now}) moves to it if it is better, and {places.exported_to} follows"
    )
    yield f"starts from: {places.starts_from}"


def in_units(size: int) -> str:
    """Return a number of bytes with a unit, such as `1.5 GiB`."""
    value = float(size)
    for unit in _UNITS[:-1]:
        if value < 1000.0:
            return f"{value:.3g} {unit}"
        value /= 1024.0
    return f"{value:.3g} {_UNITS[-1]}"
