"""The start of a run's training: the base model or root, and the values of `auto` settings."""

import shutil

from tunetrail.config import BASE
from tunetrail.data.rows import records_of
from tunetrail.evaluation.plots import rate_figure
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.pipeline.ranks import rank_count
from tunetrail.pipeline.run_state import START
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.reporting.charts import png


def start_of_training(context: StageContext, shape: str) -> tuple[str, str]:
    """Return the name and the folder of the model that the training begins with.

    Root may move while the run goes on, so its model is copied into the run's folder. Settings may
    say to begin with the base model; a root that descends from another base model is not used.
    """
    state = context.state
    folder = state.folder / START
    # Decided once: a resumed run must not switch to a root that was promoted meanwhile.
    if state.started_from is None:
        root = context.registry.root()
        begins_with_root = (
            root is not None
            and context.config.start_from == "root"
            and root.base_model == context.base.canonical_name
        )
        if root is not None and begins_with_root:
            shutil.rmtree(folder, ignore_errors=True)  # an interrupted copy
            context.learner(shape).save(context.registry.load(root), folder)
        # After the copy: a state that names the start says that the copy is whole.
        state.started_from = root.uri if root is not None and begins_with_root else BASE
        state.save()

    path = context.base.path if state.started_from == BASE else str(folder)
    return state.started_from, path


def auto_values(context: StageContext, prepared: PreparedRows) -> AutoValues:
    """Return the values of `auto` settings, which are found once per run, however often resumed."""
    state, run = context.state, context.run
    if state.auto_values is not None:
        return AutoValues.from_dict(state.auto_values)

    records = records_of(prepared.train)
    # The training's batches hold these rows too, so the searches have to see them.
    if prepared.additional is not None:
        records += records_of(prepared.additional)
    _, path = start_of_training(context, prepared.shape)
    ranks = rank_count(context.settings.trainer)
    values = context.learner(prepared.shape).find_auto_values(
        path, records, context.config.training, ranks
    )

    values.report(run.log_metrics)
    if values.rate is not None:
        figure = rate_figure(values.rate.curve, values.rate.rate)
        run.log_picture(png(figure), "learning_rate_finder.png")
    state.auto_values = values.to_dict()
    state.save()
    return values
