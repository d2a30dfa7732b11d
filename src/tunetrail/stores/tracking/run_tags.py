"""The tags by which runs in MLflow are told apart, and by which their results are found."""

TRAINING_RUN_TAG = "tunetrail.training_run"
"""The tag of a training's run with its id in the database."""

SWEEP_TAG = "tunetrail.sweep"
"""The tag of a sweep's run with the overrides that it was started with."""

SWEEP_JOB_TAG = "tunetrail.sweep.job"
"""The tag of a job's run with its number within the sweep, which is the run above it."""

FAMILY_TAG = "tunetrail.family"
"""The tag of a run in which the stages of a model type have begun."""

OUTCOME_TAG = "tunetrail.outcome"
"""The tag of such a run that says where it ended."""

TEST_ROWS_TAG = "tunetrail.test_rows"
"""The tag with the digest of the rows that a run's scores were measured on."""
