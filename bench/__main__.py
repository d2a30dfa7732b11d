"""`python -m bench`: runs benchmarks and keeps what they find. Knows the names of the benchmarks, not their content.

A benchmark is a module of this package with a function `run(options) -> list of results`; its name
is added to `BENCHMARKS`.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.results import Figure, Options, Result, merge
from tunetrail.errors import SampleError, UserError

BENCHMARKS = (
    "ingest",
    "prepare",
    "small",
    "evaluation",
    "stsb",
    "pairs",
    "passages",
    "sft",
    "lora",
    "encode",
    "gradcache",
    "overhead",
    "ranks",
    "tracking",
    "plan",
)
ON_DEMAND = ("quality", "gpu")
"""Take hours, need a file or a GPU: run by `--only` alone."""
_OUTPUT = Path(__file__).parent / "results.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks, print and keep their figures; return 1 where a target is missed."""
    parser = argparse.ArgumentParser(
        prog="bench", description="Measures what the documents claim of speed and memory."
    )
    parser.add_argument(
        "--only", choices=(*BENCHMARKS, *ON_DEMAND), help="one benchmark instead of all"
    )
    parser.add_argument(
        "--rows", type=_positive, help="rows to make, instead of as many as the target names"
    )
    parser.add_argument(
        "--data", type=Path, help="a .jsonl, .csv or .parquet file to measure instead of made rows"
    )
    parser.add_argument("--test", type=Path, help="a file of rows that `quality` measures on")
    parser.add_argument(
        "--rounds", type=_positive, help="how often to measure (prepare 1, the others 3)"
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="what `gpu` trains on; cpu tries its code with toy models",
    )
    parser.add_argument(
        "--output", type=Path, default=_OUTPUT, help="the file that results are merged into"
    )
    given = parser.parse_args(arguments)
    options = Options(
        rows=given.rows,
        data=given.data,
        test=given.test,
        rounds=given.rounds,
        device=given.device,
    )
    console, missed = Console(), False
    for name in (given.only,) if given.only else BENCHMARKS:
        try:
            results: list[Result] = importlib.import_module(f"bench.{name}").run(options)
        except UserError as error:
            # a file for one benchmark has no rows for another: with all of them, the others go on
            skipped = isinstance(error, SampleError) and not given.only
            console.print(
                f"{name}: {'skipped. ' if skipped else ''}{error}",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )
            missed = missed or not skipped
            continue
        merge(results, given.output)
        for result in results:
            console.print(table_of(result))
            missed = missed or any(figure.is_met is False for figure in result.figures)
    console.print(f"Kept in {given.output}", highlight=False, soft_wrap=True)
    return int(missed)


def table_of(result: Result) -> Table:
    """Return the figures of a result as a table for people."""
    table = Table(title=result.name, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("figure")
    for heading in ("median", "spread", "target"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for figure in result.figures:
        spread = _shown(figure.spread, "") if len(figure.values) > 1 else ""
        met = {True: "met", False: "[bold red]missed[/]", None: ""}[figure.is_met]
        table.add_row(figure.name, _shown(figure.median, figure.unit), spread, _target(figure), met)
    return table


def _target(figure: Figure) -> str:
    bounds = ((">=", figure.at_least), ("<=", figure.at_most))
    return " ".join(
        f"{sign} {_shown(bound, figure.unit)}" for sign, bound in bounds if bound is not None
    )


def _shown(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000.0 else f"{value:.4g}"
    return f"{digits} {unit}".strip()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
