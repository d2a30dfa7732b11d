"""One MLflow run: its parameters, metrics and artifacts, its end, and its reopening."""

import contextlib
import io
import json
import logging
import math
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_RUN_NOTE

from tunetrail.errors import TrackingError, state_after
from tunetrail.paths import write_private_text
from tunetrail.scratch import scratch_folder
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.spools import Report
from tunetrail.stores.tracking.mlflow_pages import LOCAL_PAGES, jobs_page, run_page
from tunetrail.stores.tracking.tracking_errors import shown_uri

if TYPE_CHECKING:
    import pandas as pd

    from tunetrail.stores.tracking.tracker import Tracker

LONGEST_VALUE = 5000
LONGEST_DIGEST = 36
"""MLflow's limit for the length of a dataset's digest."""
RESUMED = "tunetrail.resumed"
CLEANED_TAG = "tunetrail.cleaned"
"""The tag of a run whose artifacts or checkpoints were removed, with the reason."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_\-. :/]")
# MLflow's status of the states in which a run has not finished.
_UNFINISHED = {"failed": "FAILED", "interrupted": "KILLED"}


class TrackedRun:
    """A run of an MLflow store, written to by its id.

    Attributes:
        tracker: The store of the run.
        run_id: The run's id.
        resumed: How often the run was reopened.
        final_state: The state in which `finish_on_exit` ends a run that raised no error: `fitted`,
            for example, if it ends early on purpose.
    """

    def __init__(self, tracker: "Tracker", run_id: str) -> None:
        self.tracker = tracker
        self.run_id = run_id
        self.resumed = 0
        self.final_state = "succeeded"

    def reopen(self) -> None:
        """Reopen a run that has ended, in this process; the tag `tunetrail.resumed` counts it."""
        with self.tracker.request():
            tags = self.tracker.client.get_run(self.run_id).data.tags
            self.resumed = int(tags.get(RESUMED, "0")) + 1
            # Before the status: a running run with the tags of a dead process would be marked as
            # interrupted by any other process that looks.
            self.set_tags({**ProcessIdentity.current().to_tags(), RESUMED: self.resumed})
            self.tracker.client.update_run(self.run_id, status="RUNNING")
            # They describe the end that has just been undone.
            for name in ("tunetrail.state", "tunetrail.reason"):
                if name in tags:
                    self.tracker.client.delete_tag(self.run_id, name)

    def child(self, name: str, tags: Mapping[str, str] | None = None) -> "TrackedRun":
        """Start a run below this one."""
        return self.tracker.start_run(name, parent_run_id=self.run_id, tags=tags)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; a value that is too long for MLflow is shortened, and says so."""
        entries = [Param(safe_name(name), _shortened(str(value))) for name, value in params.items()]
        self._log_batch(params=entries)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        self._log_batch(
            tags=[RunTag(safe_name(name), _shortened(str(value))) for name, value in tags.items()]
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log the metrics of a step, except values that aren't finite, which MLflow alters.

        MLflow has them some seconds later, see `MetricWriter`. A resumed run repeats the steps
        after its last checkpoint; values that it logged before are not logged twice.
        """
        milliseconds = int(time.time() * 1000)
        points = []
        for name, value in metrics.items():
            if math.isfinite(value):
                points.append((safe_name(name), float(value), milliseconds, step))
        if points:
            self.tracker.write_metrics(Report(self.run_id, points, resumed=self.resumed > 0))

    def announce_metric(self, name: str) -> None:
        """Log a metric whose value isn't known yet, which MLflow shows as NaN until it is.

        MLflow's page of compared runs draws the first metric that all of them have, so a run that
        has just started announces the one that it will be compared by.
        """
        unknown = Metric(safe_name(name), math.nan, int(time.time() * 1000), 0)
        with self.tracker.request():
            # Not by the writer of the other metrics: it would come some seconds later.
            self.tracker.client.log_batch(self.run_id, metrics=[unknown], synchronous=True)

    def logged_steps(self, name: str) -> set[int]:
        """Return the steps for which the run has a value of a metric."""
        with self.tracker.request():
            history = self.tracker.client.get_metric_history(self.run_id, safe_name(name))
        return {point.step for point in history}

    def log_dict(self, content: Mapping[str, Any], file: str) -> None:
        """Store a dict as a JSON or YAML artifact."""
        with self.tracker.request():
            self.tracker.client.log_dict(self.run_id, dict(content), file)

    def artifacts(self, folder: str | None = None) -> list[str]:
        """Return the paths of the artifacts in a folder of the run, by default in the top one."""
        with self.tracker.request():
            artifacts = self.tracker.client.list_artifacts(self.run_id, folder)
        return [artifact.path for artifact in artifacts]

    def read_dict(self, file: str) -> dict[str, Any]:
        """Return a JSON artifact.

        Raises:
            TrackingError: The artifact doesn't exist or can't be read.
        """
        try:
            return dict(json.loads(self.read_text(file)))
        except ValueError as error:
            raise TrackingError(
                f"the artifact {file} of the run {self.run_id} is not JSON: {error}"
            ) from error

    def read_text(self, file: str) -> str:
        """Return a text artifact.

        Raises:
            TrackingError: The artifact doesn't exist or can't be read.
        """
        with (
            self.tracker.request(),
            scratch_folder() as folder,
        ):
            path = Path(self.tracker.client.download_artifacts(self.run_id, file, str(folder)))
            return path.read_text(encoding="utf-8", errors="replace")

    def download(self, file: str, folder: Path) -> Path:
        """Return the path of an artifact in a local folder, where it is copied to if it is remote.

        Raises:
            TrackingError: The artifact doesn't exist or can't be read.
        """
        # In a folder of the run's own, as artifacts of several runs have the same names.
        run_folder = folder / self.run_id
        run_folder.mkdir(exist_ok=True)
        with self.tracker.request():
            path = self.tracker.client.download_artifacts(self.run_id, file, str(run_folder))
        return Path(path)

    def artifact_location(self, file: str) -> str:
        """Return where a person finds an artifact: a path, a page of the server, or a URI."""
        uri = self.tracker.config.uri
        with self.tracker.request():
            info = self.tracker.client.get_run(self.run_id).info
        url = urlsplit(info.artifact_uri)
        if url.scheme in ("", "file"):
            return str(Path(url2pathname(url.path)) / file)
        if uri.startswith("http"):
            return run_page(shown_uri(uri), info.experiment_id, self.run_id, file)
        return f"{shown_uri(info.artifact_uri)}/{file}"

    def page(self) -> str:
        """Return the address of the run's page: on the server, or on the one of `tunetrail ui`."""
        return run_page(self._server, self.tracker.experiment_id, self.run_id)

    def jobs_page(self, metric: str | None, *, descending: bool) -> str:
        """Return the address of the jobs below a sweep's run, ordered by a metric."""
        experiment_id = self.tracker.experiment_id
        return jobs_page(self._server, experiment_id, self.run_id, metric, descending=descending)

    @property
    def _server(self) -> str:
        """The address of MLflow's pages: the server's own, or the one of `tunetrail ui`."""
        uri = self.tracker.config.uri
        return shown_uri(uri) if uri.startswith("http") else LOCAL_PAGES

    def describe(self, note: str) -> None:
        """Set the note that MLflow's pages show with the run, in Markdown, unless it has one.

        The user may have written one while the run went on, or before it was resumed.
        """
        with self.tracker.request():
            tags = self.tracker.client.get_run(self.run_id).data.tags
        if not tags.get(MLFLOW_RUN_NOTE, "").strip():
            self.set_tags({MLFLOW_RUN_NOTE: note})

    def log_text(self, text: str, file: str) -> None:
        """Store a text artifact."""
        with self.tracker.request():
            self.tracker.client.log_text(self.run_id, text, file)

    def log_table(self, table: "pd.DataFrame", file: str) -> None:
        """Store a table as a JSON artifact that MLflow's pages show as a table.

        Unlike MLflow's own function, which appends, it replaces an earlier table of that name: a
        resumed run may log it again. Only the owner can read it in a local store, since tables
        quote samples.

        Args:
            table: The table.
            file: The path of the artifact.
        """
        entry = {"path": file, "type": "table"}
        # As JSON in ASCII, so that no character of the data can break a page or the encoding.
        text = table.to_json(orient="split", index=False, force_ascii=True)
        folder, _, name = file.rpartition("/")

        with (
            self.tracker.request(),
            scratch_folder() as local,
        ):
            path = local / name
            write_private_text(path, text)
            self.tracker.client.log_artifact(self.run_id, str(path), folder or None)

            tags = self.tracker.client.get_run(self.run_id).data.tags
            tables = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
            if entry not in tables:
                tag = json.dumps([*tables, entry])
                self.tracker.client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, tag)

    def log_picture(self, picture: bytes, file: str) -> None:
        """Store a PNG as an artifact.

        MLflow's own function takes a figure and draws it, again if a page shows it as well.
        """
        folder, _, name = file.rpartition("/")
        with self.tracker.request(), scratch_folder() as local:
            path = local / name
            path.write_bytes(picture)
            self.tracker.client.log_artifact(self.run_id, str(path), folder or None)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file or a folder as an artifact."""
        with self.tracker.request():
            self.tracker.client.log_artifact(self.run_id, str(path), folder)

    def log_input(self, name: str, digest: str, context: str, rows: int) -> None:
        """Log a dataset of the run: the digest of its rows, their number, and their purpose.

        The purpose is `training`, `validation` or `test`.
        """
        dataset = Dataset(
            name=name,
            digest=digest[:LONGEST_DIGEST],
            source_type="tunetrail",
            source=f'{{"session": "{name}"}}',
            profile=f'{{"num_rows": {rows}}}',
        )
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        with self.tracker.request():
            self.tracker.client.log_inputs(self.run_id, inputs)

    def link(self, run_id: str) -> None:
        """Show the datasets and models of a run that belongs to this one with this one as well."""
        client = self.tracker.client
        with self.tracker.request():
            run = client.get_run(run_id)
            if run.inputs is not None:
                client.log_inputs(self.run_id, run.inputs.dataset_inputs)
            # MLflow refuses to link a model twice, as a resumed run would.
            linked = client.get_run(self.run_id).outputs
            known = {output.model_id for output in linked.model_outputs} if linked else set()
            outputs = run.outputs.model_outputs if run.outputs else []
            new_outputs = [output for output in outputs if output.model_id not in known]
            if new_outputs:
                client.log_outputs(self.run_id, new_outputs)

    def finish(self, state: str, reason: str | None = None) -> None:
        """End the run in a state, with the reason as a tag.

        For MLflow, `failed` and `interrupted` runs have not finished, and all others have.
        """
        # The status comes last: if MLflow fails in between, the run can still be marked.
        tags = {"tunetrail.state": state}
        if reason:
            tags["tunetrail.reason"] = reason
        self.set_tags(tags)
        with self.tracker.request():
            self.tracker.client.set_terminated(self.run_id, _UNFINISHED.get(state, "FINISHED"))
        self.tracker.report_undelivered()

    @contextlib.contextmanager
    def finish_on_exit(self) -> Iterator["TrackedRun"]:
        """Finish the run when the block ends: `final_state`, failed, or interrupted by a signal.

        The messages of tunetrail's loggers become the artifact log.txt, with the traceback of an
        error; a resumed run has log_resumed_1.txt and so on.
        """
        with _captured_log() as log:
            try:
                yield self
            # Ctrl-C and SIGTERM arrive as SystemExit, which has to end the run as well.
            except BaseException as error:
                self._finish_after(error, log)
                raise
            self._keep_log(log)
            self.finish(self.final_state)

    def _finish_after(self, error: BaseException, log: io.StringIO) -> None:
        """End the run without hiding the error that ended it, even if it was MLflow that failed."""
        state, reason = state_after(error)
        try:
            with self.tracker.in_a_hurry():
                # The state before the log: it matters more if MLflow fails again.
                self.finish(state, reason)
                log.writelines(traceback.format_exception(error))
                self._keep_log(log)
        except TrackingError as tracking_error:
            is_same = str(tracking_error) == str(error)
            why = ", for the same reason" if is_same else f": {tracking_error}"
            error.add_note(f"The run {self.run_id} could not be marked as {state}{why}")
            self.tracker.report_undelivered()

    def _keep_log(self, log: io.StringIO) -> None:
        file = f"log_resumed_{self.resumed}.txt" if self.resumed else "log.txt"
        if log.getvalue():
            self.log_text(log.getvalue(), file)

    def _log_batch(self, params: Sequence[Param] = (), tags: Sequence[RunTag] = ()) -> None:
        with self.tracker.request():
            for start in range(0, max(len(params), len(tags)), 100):
                batch = slice(start, start + 100)  # MLflow refuses more at once
                self.tracker.client.log_batch(self.run_id, params=params[batch], tags=tags[batch])


@contextlib.contextmanager
def _captured_log() -> Iterator[io.StringIO]:
    """Collect the messages of tunetrail's loggers."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("tunetrail")
    logger.addHandler(handler)
    try:
        yield text
    finally:
        logger.removeHandler(handler)


def safe_name(name: str) -> str:
    """Return `name` with the characters that MLflow refuses replaced by `_`."""
    return _UNSAFE.sub("_", name)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE - 20]}… ({len(text)} characters)"
