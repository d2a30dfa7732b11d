"""The text of `tunetrail plan`: a few lines and a table of stages for each model type."""

from rich.console import Console

from tunetrail.cli.terminal import new_table, print_line
from tunetrail.pipeline.planning.plan_lines import COLUMNS, lines_below, lines_of_work, stage_rows
from tunetrail.pipeline.planning.run_plan import FamilyPlan, RunPlan
from tunetrail.reporting.readable import duration


def print_plan(plan: RunPlan) -> None:
    """Print what a training will take."""
    console = Console()
    for family in plan.families.values():
        _print_family(family, console)

    families = f" for {' and '.join(plan.families)}" if len(plan.families) > 1 else ""
    planned = duration(plan.planning_seconds)
    whole = f"The training takes about {duration(plan.seconds)}{families}."
    print_line(console, f"{whole} This plan took {planned}.")


def _print_family(plan: FamilyPlan, console: Console) -> None:
    for line in lines_of_work(plan):
        print_line(console, line)

    table = new_table(*COLUMNS)
    for cells in stage_rows(plan):
        table.add_row(*cells)
    console.print(table)

    for line in lines_below(plan):
        print_line(console, line)
    console.print()
