"""The version that a candidate is compared with."""

from tunetrail.deployment.model_version import ModelVersion
from tunetrail.pipeline.stage_context import StageContext


def version_to_beat(context: StageContext) -> ModelVersion | None:
    """Return the version to beat: root, or None before the first promotion.

    If an earlier attempt of this run had already moved root to its candidate, or had ended its
    deployment, return the version that the candidate was compared with then.
    """
    state = context.state
    root = context.registry.root()
    candidate = context.registry.version_of_run(context.run, context.base.canonical_name)

    # Compared with itself, a candidate that is root already could only be refused.
    root_is_our_candidate = (
        root is not None and candidate is not None and root.version == candidate.version
    )
    is_decided = root_is_our_candidate or "deployment" in state.steps
    return state.compared_with if is_decided else root
