"""`tunetrail compare`: compare models that were scored before, on the same test rows."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import add_experiment, add_uri
from tunetrail.cli.terminal import new_table, print_line, printable, say_loading
from tunetrail.errors import UserError, not_writable
from tunetrail.paths import write_private_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tunetrail.evaluation.model_comparison import ModelComparison

_DESCRIPTION = """\
Compare two or more models on the same rows, by the scores that their runs kept in
evaluation/rows.parquet. No model is loaded, and root stays where it is. The figures
aren't corrected for looks: of many models, one is the best by chance.

a MODEL is one of:
  the id of a run, its beginning, or the name: of a training, or of one model type in it
  a version: embedding/3 or models:/embedding/3
  an alias: embedding@root
  base: the base model, as one of the other runs was compared with it

Models that were scored on other rows, or ranked other documents, are not compared.
With --rows folds, a MODEL stands for the recipe of its run, as its cross-validation trained
it: on more rows than the test has, and without a look at them."""

_EPILOG = """\
exit code: 0 if the models were compared, whatever the result; 2 if they can't be

examples:
  tunetrail compare base embedding@root
  tunetrail compare embedding/1 embedding/2 embedding/3 --html comparison.html
  tunetrail compare base embedding/1 embedding/2 --rows folds
  tunetrail compare 0f8fad5bd9cb469fa16570867728950e llm@root --metric bits_per_byte_text --json"""


def compare(arguments: list[str]) -> int:
    """Compare the models, print the result, and write what the options ask for."""
    options = _parse(arguments)
    say_loading("compare")
    # Imported only after parsing: --help doesn't wait for MLflow.
    from tunetrail.comparing import compare as compare_scored
    from tunetrail.comparing import log_comparison
    from tunetrail.evaluation.comparison_page import comparison_page
    from tunetrail.evaluation.comparison_plots import comparison_pictures

    page = Path(options.html) if options.html else None
    _check_writable(page)
    comparison = compare_scored(
        *options.models,
        tracking_uri=options.uri,
        model_type=options.model_type,
        metric=options.metric,
        common=options.common,
        rows=options.rows,
        confidence=options.confidence,
    )

    show(comparison.to_dict, lambda: print_comparison(comparison))
    # On stderr: with --json, stdout holds nothing else.
    if page is not None:
        html = comparison_page(comparison, comparison_pictures(comparison))
        write_private_text(page, html)
        print(f"page: {page}", file=sys.stderr)
    if options.mlflow:
        run_id = log_comparison(comparison, tracking_uri=options.uri, experiment=options.experiment)
        print(f"MLflow run: {run_id}", file=sys.stderr)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="two or more, see above")
    parser.add_argument("--model-type", metavar="TYPE", help="embedding or llm, if runs have both")
    metric_help = "metric to compare by (default: the primary one of the rows' shape)"
    parser.add_argument("--metric", metavar="NAME", help=metric_help)
    rows_help = "test rows, or the held-out rows of all folds (default: %(default)s)"
    parser.add_argument("--rows", choices=("test", "folds"), default="test", help=rows_help)
    common_help = "compare on the rows that all models share, if their rows differ"
    parser.add_argument("--common", action="store_true", help=common_help)
    confidence_help = "coverage of the intervals, 1 minus the level of the tests (default: 0.95)"
    parser.add_argument(
        "--confidence", type=float, default=0.95, metavar="SHARE", help=confidence_help
    )

    add_output_options(parser)
    parser.add_argument("--html", metavar="FILE", help="write a page that needs no network")
    mlflow_help = "log the table, the page and the pictures to a new MLflow run"
    parser.add_argument("--mlflow", action="store_true", help=mlflow_help)
    add_uri(parser)
    add_experiment(parser, "MLflow experiment of the new run")
    return parser.parse_args(arguments)


def _check_writable(page: Path | None) -> None:
    """Raise an error, before anything is computed, if the page can't be written."""
    if page is None:
        return
    if page.is_dir():
        raise UserError(f"--html must be a file, got the folder {str(page)!r}. Name a file in it.")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable("--html", page.parent, error) from error


def print_comparison(comparison: "ModelComparison") -> None:
    """Print the models, the pairs, and in words which model is better."""
    from rich.console import Console

    console = Console()
    console.print(_models_table(comparison, console))
    console.print(_pairs_table(comparison, console))

    for pair in comparison.pairs:
        print_line(console, pair.verdict)
    several = len(comparison.pairs) > 1
    corrected = f", corrected for {len(comparison.pairs)} pairs (Holm)" if several else ""
    print_line(
        console,
        f"{comparison.rows_in_words}; {100.0 * comparison.confidence:.3g}% intervals; p of a "
        f"paired permutation test{corrected}; d is Cohen's",
    )
    print_line(console, comparison.caveat)
    if comparison.warning is not None:
        print_line(console, f"warning: {comparison.warning}")


def _models_table(comparison: "ModelComparison", console: "Console") -> "Table":
    from tunetrail.evaluation.comparison_page import shown_p_value

    ranks = comparison.rank_test
    further = [] if ranks is None else ["mean rank"]
    table = new_table("model", comparison.metric_in_words, "scored as", *further)
    if ranks is not None:
        table.caption = (
            f"Friedman's test: p {shown_p_value(ranks.p_value)}; models differ if their mean "
            f"ranks are {ranks.critical_difference:.2f} apart (Nemenyi)"
        )
        table.caption_justify = "left"

    for model in comparison.models:
        cells = [model.name, f"{model.value:.4f}", model.source]
        if model.mean_rank is not None:
            cells.append(f"{model.mean_rank:.2f}")
        table.add_row(*(printable(cell, console) for cell in cells))
    return table


def _pairs_table(comparison: "ModelComparison", console: "Console") -> "Table":
    from tunetrail.evaluation.comparison_page import shown_counts, shown_effect, shown_p_value

    has_mcnemar = any(pair.mcnemar_p_value is not None for pair in comparison.pairs)
    names = ["from", "to", "improvement", "interval", "p", "d", "better/equal/worse"]
    table = new_table(*names, *(["McNemar p"] if has_mcnemar else []))
    # On a narrow terminal, the names of the models stay in one piece.
    for column in table.columns[:2]:
        column.no_wrap = True
    for pair in comparison.pairs:
        cells = [
            pair.first,
            pair.second,
            f"{pair.comparison.improvement:+.4f}",
            pair.interval,
            shown_p_value(pair.adjusted_p_value),
            shown_effect(pair),
            shown_counts(pair),
        ]
        if has_mcnemar:
            cells.append(shown_p_value(pair.mcnemar_p_value))
        table.add_row(*(printable(cell, console) for cell in cells))
    return table
