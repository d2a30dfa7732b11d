"""Settings of the evaluation: cross-validation, the comparison with root, and the gate."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from tunetrail.config.checks import (
    ABOVE_ZERO_TO_ONE,
    POSITIVE,
    Rule,
    at_least,
    check,
    check_different,
    check_settings,
    choices_setting,
    options_setting,
    setting,
)
from tunetrail.config.training import AUTO
from tunetrail.config.typed_options import check_names, options_of
from tunetrail.extensions import METRICS as INSTALLED_METRICS


@dataclass(kw_only=True)
class CrossValidationConfig:
    """How many folds are trained before the training itself, and for how long."""

    # With one fold, there would be no other rows to train on.
    n_splits: int = setting(
        5, Rule("0 (off) or at least 2", lambda splits: splits == 0 or splits >= 2)
    )
    """Folds of the cross-validation over the train split; 0 turns it off."""

    budget: float = setting(0.2, ABOVE_ZERO_TO_ONE)
    """Share of a full training's steps that each fold gets. With 0.2, five folds cost about
    as much as one more training. The result is named after it: `recipe at 20 % of the steps`."""

    # A little above 1, or five folds of a fifth of `max_steps` would be too many for their scoring.
    max_cost: float = setting(1.02, POSITIVE)
    """What all folds together may take, as a share of the training's steps: their own steps, and
    the scoring of their held-out rows by both models, for which a row counts as a third of a
    training step. If they take more, fewer folds are trained (two at least), and the log says so.
    The folds that are also trained without added rows come on top."""

    def __post_init__(self) -> None:
        check_settings("cross_validation", self)


@dataclass(kw_only=True)
class GenerationConfig:
    """What a language model is asked to write, and what its answers are checked for.

    The answers of the candidate and of the version to beat are shown next to each other. They
    don't decide: the metric of the comparison stays bits per byte.
    """

    rows: int = setting(50, at_least(0))
    """Test rows, drawn by their content, whose last answer the model writes itself; 0 turns it
    off. Rows of plain text have no prompt and are left out."""

    max_new_tokens: int = setting(64, at_least(1))
    """Length in tokens at which an answer is cut off."""

    pattern: str | None = None
    """Regular expression to look for in the answers (`pattern_match`). `exact_match` then compares
    only what its last match captures: its first group, or all of it if it has none; for example
    `#### (\\S+)`. Rows whose expected answer has no match are compared as a whole."""

    json_schema: str | None = None
    """JSON schema that answers must satisfy (`schema_match`): a file, or the schema itself as
    JSON. It may refer to nothing outside itself."""

    def __post_init__(self) -> None:
        check_settings("evaluation.generation", self)
        if self.pattern is None and self.json_schema is None:
            return
        # Every command imports the settings, and few need the library of JSON schemas.
        from tunetrail.config.answer_checks import read_json_schema, read_pattern

        # Read here, so that a mistake shows before the training and not after it.
        if self.pattern is not None:
            read_pattern(self.pattern)
        if self.json_schema is not None:
            read_json_schema(self.json_schema)


@dataclass(kw_only=True)
class EvaluationConfig:
    """How candidates are scored and compared with root: by a paired bootstrap over whole groups."""

    batch_size: int = setting(32, at_least(1))
    """Rows that a language model scores, or writes answers to, at a time: a matter of memory and
    speed, not of the scores."""

    corpus_size: int = setting(20_000, at_least(0))
    """Rows of the session, other than the scored ones, whose texts the queries are ranked
    against, drawn by their content if there are more. With 0, only the scored rows' own texts are
    ranked: so few that most models find them all, and gains hardly show."""

    cutoffs: list[int] = field(default_factory=lambda: [1, 5, 10])
    """The k of nDCG@k, MRR@k, MAP@k, recall@k and precision@k. 10 is added if it is missing,
    because models are compared by nDCG@10."""

    corpus_file: str | None = setting(None, Rule("null or the path of a file", bool))
    """JSONL, CSV or Parquet file of documents, one in the column `text` of each row, that the
    queries of pairs and of plain texts rank in addition to the session's, such as the index of
    the application; null is none. `corpus_size` doesn't bound it, and each model encodes it
    once per scoring."""

    # With 100 resamples, a bound at 2.5 % rests on the two or three most extreme ones.
    bootstrap_samples: int = setting(10_000, at_least(100))
    """Resamples drawn for the interval of the improvement."""

    # Below one half, the interval would miss the true improvement more often than hold it.
    confidence: float = setting(
        0.95, Rule("at least 0.5 and below 1", lambda confidence: 0.5 <= confidence < 1.0)
    )
    """Confidence level of the interval of the improvement."""

    metrics: list[str] = choices_setting(point=INSTALLED_METRICS)
    """Further metrics, of installed packages, that models are scored by. Each is computed for the
    models that it fits, with its interval; `gate.metric` names the one that decides."""

    extensions: dict[str, dict[str, Any]] = options_setting(INSTALLED_METRICS)
    """Options of these metrics, by metric and option, as in
    `evaluation.extensions.METRIC.OPTION=VALUE`."""

    benchmark_rows: int = setting(2_000, at_least(0))
    """Test rows of earlier sessions that are kept, an equal share of each session, and on which
    later candidates are scored as well; 0 keeps and scores none."""

    general_file: str | None = setting(None, Rule("null or the path of a file", bool))
    """JSONL, CSV or Parquet file of rows that every candidate is scored on as well, whatever its
    session, in the shapes that `tunetrail ingest` reads; null is none. At most `benchmark_rows` of
    them are drawn, by their content. A candidate that loses more than `gate.maximum_loss` on them
    is refused."""

    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Answers that a language model writes to test rows."""

    def __post_init__(self) -> None:
        check_settings("evaluation", self)
        self._check_metrics()
        # Deeper ranks are read by nobody, and take memory for each query.
        are_ranks = bool(self.cutoffs) and all(1 <= cutoff <= 1000 for cutoff in self.cutoffs)
        are_different = len(set(self.cutoffs)) == len(self.cutoffs)
        rule = "different whole numbers from 1 to 1000"
        check(are_ranks and are_different, "evaluation.cutoffs", rule, self.cutoffs)
        check(
            self.general_file is None or self.benchmark_rows > 0,
            "evaluation.benchmark_rows",
            "at least 1 with evaluation.general_file",
            self.benchmark_rows,
            "Raise it, or set evaluation.general_file=null.",
        )

    def _check_metrics(self) -> None:
        """Check the metrics of installed packages and their options."""
        key = "evaluation.extensions"
        check_different("evaluation.metrics", self.metrics)
        check_names(key, self.extensions, INSTALLED_METRICS, "evaluation.metrics", self.metrics)

        for name in self.metrics:
            metric = INSTALLED_METRICS.load(name)
            options_of(metric, key, self.extensions)
            check(
                metric.of_answer is None or self.generation.rows > 0,
                "evaluation.generation.rows",
                f"at least 1 with the metric {name}, which is computed of written answers",
                self.generation.rows,
            )


def _is_metric_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value) is not None


@dataclass(kw_only=True)
class GateConfig:
    """When the alias root moves to the candidate."""

    metric: str = setting(
        AUTO, Rule("auto or the name of a metric, such as recall_at_1", _is_metric_name)
    )
    """Metric that candidates are compared by, such as `mrr_at_10`, or one of `evaluation.metrics`.
    It must have a value for each test row; `auto` is the first metric of the samples' shape."""

    # Below 0 is allowed: it tolerates a candidate that is slightly worse.
    minimum_improvement: float = setting(0.0, Rule("finite", math.isfinite))
    """Improvement of the metric that must be exceeded, in the metric's own unit; 0 asks for
    any improvement."""

    minimum_test_clusters: int = setting(20, at_least(1))
    """Independent test rows (groups of related rows count once) below which nothing is promoted:
    a handful of rows can't tell."""

    require_interval: bool = True
    """Demand that the lower bound of the interval exceeds `minimum_improvement`. False is
    satisfied with the point estimate: for small test splits, at your own risk."""

    maximum_loss: float = setting(0.02, at_least(0))
    """Loss on an earlier session's test rows, or on the rows of `evaluation.general_file`, in the
    metric's own unit, above which a candidate is refused if the interval of the change lies below 0
    as well."""

    maximum_slice_loss: float | None = setting(None, at_least(0))
    """Loss on a slice of the test rows (a language, a label, a quarter of the lengths, ...), in the
    metric's own unit, above which a candidate is refused if the change on that slice lies below 0
    by the interval that holds for all slices at once; null looks at no slice."""

    maximum_latency_ms: float | None = setting(None, POSITIVE)
    """Milliseconds that a candidate may take for one text on the machine of the training, without
    a GPU: it is refused if the interval of its median lies above. Root is measured in turns with
    it. Of a language model, it is the time until the first token. Null measures nothing."""

    maximum_model_mib: float | None = setting(None, POSITIVE)
    """Size of the exported model in MiB above which a candidate is refused; null is no limit."""

    fresh_process: bool = True
    """Whether a candidate that passes the gate is loaded again, from its registered version, by a
    process of its own. It is refused unless it gives there the scores of some test rows and the
    outputs for their texts again, to within 1e-6. That takes the seconds in which the process
    imports its libraries."""

    approval: bool = False
    """Whether a candidate that passes the gate waits for a person: it is registered, and
    `tunetrail root promote` makes it root."""

    def __post_init__(self) -> None:
        check_settings("gate", self)
