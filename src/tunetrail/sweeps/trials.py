"""A trial of an Optuna study is a job of a sweep: what the one says of the other."""

from optuna.trial import FrozenTrial, TrialState

from tunetrail.sweeps.sweep_job import JobState, SweepJob

ENDED = {
    TrialState.COMPLETE: JobState.FINISHED,
    TrialState.PRUNED: JobState.PRUNED,
    TrialState.FAIL: JobState.FAILED,
}
"""The states of trials that have ended."""


def job_of_trial(trial: FrozenTrial) -> SweepJob:
    """Return the job that a trial of its study is."""
    facts = trial.user_attrs
    state = ENDED.get(trial.state)
    if state is None:
        # The trials of an adaptive sampler are running for Optuna as soon as they are chosen.
        state = JobState.RUNNING if "mlflow_run_id" in facts else JobState.WAITING

    finished = state == JobState.FINISHED
    interval = facts.get("interval")
    return SweepJob(
        number=trial.number,
        overrides=tuple(facts.get("overrides", ())),
        state=state,
        values=tuple(trial.values) if finished else None,
        interval=(interval[0], interval[1]) if interval else None,
        mlflow_run_id=facts.get("mlflow_run_id"),
        reason=facts.get("reason"),
        seconds=facts.get("seconds"),
        steps=facts.get("steps"),
    )
