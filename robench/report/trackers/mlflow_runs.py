"""MLflow: a run of the tracking server, or of the store, that its own environment variables name."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import Any

from robench.report.trackers.records import Log, LogRecord, TrackedRun

KEY_TAG = "robench.key"
STATUS = {"finished": "FINISHED", "broken off": "FAILED"}
USUAL_ENVIRONMENT = {  # where the user has not set them: a server that is away costs seconds, and nothing is reported to third parties
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
LONGEST_RUN_NAME = 250  # letters of a metric or a parameter


def mlflow_log(run: TrackedRun, *, experiment: str = "") -> Log:
    """A run of MLflow, at MLFLOW_TRACKING_URI or where MLflow keeps its own, in the experiment that is named.

    Args:
        run: the run; one that is gone on with goes on in its run of MLflow, and no step is there twice.
        experiment: its name; else that of MLFLOW_EXPERIMENT_NAME, else robench.
    """
    for name, value in USUAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment_id = named_experiment(client, str(experiment) or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "robench")
    same = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{run.key}'", order_by=["attributes.start_time DESC"])
    if run.command != "train" and any(one.info.status == "FINISHED" for one in same):
        return log_nothing  # this measurement is there as a whole
    run_id = known_or_new_run(client, run, experiment_id, same)
    last_steps: dict[str, int] | None = {} if run.steps_done else None

    def log(records: Sequence[LogRecord]) -> None:
        client.log_batch(run_id, metrics=metrics_of(records, client, run_id, last_steps))
        for record in records:
            for path in record.files:
                client.log_artifact(run_id, str(path))
            if record.end:
                client.set_terminated(run_id, STATUS[record.end])

    return log


def log_nothing(records: Sequence[LogRecord]) -> None:
    """Takes records and does nothing with them."""


def named_experiment(client: Any, name: str) -> str:
    """The id of an experiment, which is made where there is none of this name."""
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def known_or_new_run(client: Any, run: TrackedRun, experiment_id: str, same: Sequence[Any]) -> str:
    """The id of the run of MLflow that goes on, or of a new one; runs of the same key that a killed process left are closed as killed."""
    from mlflow.entities import Param

    if run.steps_done and same:
        client.update_run(same[0].info.run_id, status="RUNNING")
        return str(same[0].info.run_id)
    for other in same:
        if other.info.status == "RUNNING":
            client.set_terminated(other.info.run_id, "KILLED")
    tags = {KEY_TAG: run.key, "robench.command": run.command, "robench.folder": str(run.folder.resolve())}
    run_id = str(client.create_run(experiment_id, run_name=run.name, tags=tags).info.run_id)
    client.log_batch(run_id, params=[Param(mlflow_name(name), str(value)) for name, value in run.parameters.items()])
    return run_id


def metrics_of(records: Sequence[LogRecord], client: Any, run_id: str, last_steps: dict[str, int] | None) -> list[Any]:
    """The numbers of some records as MLflow takes them, but for those that are there already, where an earlier process logged some."""
    from mlflow.entities import Metric

    now, metrics = int(1000 * time.time()), []
    for record in records:
        for tag, value in record.values.items():
            name = mlflow_name(tag)
            if last_steps is not None and name not in last_steps:
                last_steps[name] = max((one.step for one in client.get_metric_history(run_id, name)), default=-1)
            if last_steps is None or record.step > last_steps[name]:
                metrics.append(Metric(name, value, now, record.step))
    return metrics


def mlflow_name(tag: str) -> str:
    """A tag in the letters that MLflow allows in names: letters, digits, "_", "-", ".", " ", ":" and "/".

    Args:
        tag: any text; "=" becomes ":", what else is not allowed "-".

    Example:
        >>> mlflow_name("cnn/fog severity=3/accuracy")
        'cnn/fog severity:3/accuracy'
    """
    parts = [re.sub(r"[^\w\-. :]", "-", part.replace("=", ":"), flags=re.ASCII) for part in tag.split("/")]
    return "/".join(part if part.strip(". ") else f"-{part}" for part in parts)[:LONGEST_RUN_NAME]
