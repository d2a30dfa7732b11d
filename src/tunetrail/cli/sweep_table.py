"""Print the table at the end of a sweep: a line per job, and the decision about the best one."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tunetrail.cli.results_table import print_results, where_to_look
from tunetrail.cli.terminal import printable, say
from tunetrail.reporting.readable import shown_interval
from tunetrail.sweeps.job_words import objective_label, shown_overrides
from tunetrail.sweeps.sweep_job import SweepJob
from tunetrail.sweeps.sweep_plan import Objective
from tunetrail.sweeps.winner import SweepDecision


def print_sweep(decision: SweepDecision, tracking_uri: str) -> None:
    """Print what each job came to, then what became of the best one.

    Args:
        decision: What the sweep came to.
        tracking_uri: The MLflow store.
    """
    console = Console()
    console.print(_jobs_table(decision, console))
    for job in decision.jobs:
        if job.reason is not None:
            say(f"job {job.number} {job.state}: {job.reason}")

    say(f"Sweep: {decision.sentence}")
    after = "" if tracking_uri.startswith("http") else " (after `tunetrail ui`)"
    say(f"Jobs in MLflow: {decision.page}{after}")
    if decision.results is not None:
        run_id = None if decision.best is None else decision.best.mlflow_run_id
        print_results(decision.results, tracking_uri, decision.report, run_id=run_id)
    else:
        console.print(where_to_look(tracking_uri), soft_wrap=True, highlight=False)


def _jobs_table(decision: SweepDecision, console: Console) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("job", justify="right")
    table.add_column("what was swept", overflow="fold")
    for objective in decision.objectives:
        direction = "↑" if objective.higher_is_better else "↓"
        table.add_column(f"{objective_label(objective.name)} {direction}")
    for name in ("seconds", "steps"):
        table.add_column(name, justify="right")
    table.add_column("state")

    for job in decision.jobs:
        table.add_row(
            str(job.number),
            printable(", ".join(shown_overrides(job)), console),
            *_values_in_words(job, decision.objectives),
            "" if job.seconds is None else f"{job.seconds:.1f}",
            "" if job.steps is None else str(job.steps),
            _state_in_words(job, decision),
        )
    return table


def _values_in_words(job: SweepJob, objectives: Sequence[Objective]) -> list[str]:
    """Return the values of a job, the first one with its interval; empty texts without values."""
    if job.values is None:
        return [""] * len(objectives)
    cells = [f"{value:.4f}" for value in job.values]
    if job.interval is not None:
        cells[0] += f" ({shown_interval(*job.interval, '.4f')})"
    return cells


def _state_in_words(job: SweepJob, decision: SweepDecision) -> str:
    if decision.best is not None and job.number == decision.best.number:
        return f"{job.state}, best"
    is_on_front = len(decision.objectives) > 1 and job in decision.front
    return f"{job.state}, on the front" if is_on_front else str(job.state)
