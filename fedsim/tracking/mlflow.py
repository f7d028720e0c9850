"""How does MLflow show a run?

As one of its runs, under the name of the run's folder: options are parameters, figures are metrics
with the round as step, the summary's other entries are tags. The id stands in DIR/mlflow.json, so
that a run that goes on does so there as well; of each metric, only steps after its last are added.
"""

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import ConfigError
from fedsim.folder import Folder, read_json
from fedsim.tracking.feed import Line, parameters, scalars

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.json"
"""The file of a record that names MLflow's run."""

MOST = 100
"""Parameters or tags in one request."""


@dataclass(frozen=True, kw_only=True)
class MLflow:
    """Shows runs in a tracking store; needs the package `mlflow` or `mlflow-skinny`.

    Attributes:
      uri: of the store, such as "sqlite:///runs/mlflow.db" or that of a server; default: MLflow's
        own, which $MLFLOW_TRACKING_URI sets.
      experiment: of MLflow's, made where it is missing; default: $MLFLOW_EXPERIMENT_NAME, or
        "fedsim".

    Example:
      >>> from fedsim import Simulation
      >>> tracker = MLflow(uri="sqlite:///runs/mlflow.db")
      >>> Simulation(..., trackers=[tracker]).run(out="runs/a")  # doctest: +SKIP
    """

    uri: str | None = None
    experiment: str | None = None

    def open(self, folder: Path | None, config: Mapping[str, Any]) -> "MLflowLog":
        """Begin a run of MLflow's, or go on with the one that the record names."""
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise ConfigError(
                f"MLflow cannot be imported ({error}); pip install mlflow-skinny"
            ) from None
        client = MlflowClient(tracking_uri=self.uri)
        known = None if folder is None else _known(client, folder)
        if known is not None:
            return MLflowLog(client, known, config)
        name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "fedsim"
        found = client.get_experiment_by_name(name)
        if found is None:
            # Another process may be making it too.
            with suppress(MlflowException):
                client.create_experiment(name)
            found = client.get_experiment_by_name(name)
        assert found is not None, f"MLflow has neither found nor made the experiment {name}"
        run = client.create_run(found.experiment_id, run_name=folder.name if folder else None)
        if folder is not None:
            Folder(folder).json(NOTE, {"run_id": run.info.run_id})
        return MLflowLog(client, run.info.run_id, config)


def _known(client: "MlflowClient", folder: Path) -> str | None:
    """The id of the run that a record names, unless it is of another store or was removed there."""
    from mlflow.exceptions import MlflowException

    if not (folder / NOTE).is_file():
        return None
    try:
        return client.get_run(read_json(folder / NOTE)["run_id"]).info.run_id
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


class MLflowLog:
    """One run of MLflow's.

    Args:
      client: of its store.
      run: the run's id there.
      config: what config.json says.
    """

    def __init__(self, client: "MlflowClient", run: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._client = client
        self._run = run
        shown = client.get_run(run).data
        self._last: dict[str, int] = defaultdict(
            int,
            {
                name: max(point.step for point in client.get_metric_history(run, name))
                for name in shown.metrics
            },
        )
        client.update_run(run, status="RUNNING")
        new = [
            Param(_key(name), str(value))
            for name, value in parameters(config).items()
            if _key(name) not in shown.params
        ]
        for k in range(0, len(new), MOST):
            client.log_batch(run, params=new[k : k + MOST])

    def round(self, line: Line) -> None:
        """A step of every metric."""
        self._add(scalars(line), line["round"])

    def end(self, summary: Mapping[str, Any]) -> None:
        """The summary: its numbers as metrics, all else, infinite epsilons too, as tags."""
        from mlflow.entities import RunTag

        numbers = dict(scalars(summary))
        self._add({f"summary/{k}": v for k, v in numbers.items()}.items(), summary["rounds"])
        others = [RunTag(_key(k), str(v)) for k, v in summary.items() if k not in numbers]
        for k in range(0, len(others), MOST):
            self._client.log_batch(self._run, tags=others[k : k + MOST])

    def close(self, error: BaseException | None) -> None:
        """Say how it ended."""
        stopped = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        self._client.set_terminated(self._run, "FINISHED" if error is None else stopped)

    def _add(self, figures: Iterable[tuple[str, float]], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = [(_key(name), value) for name, value in figures]
        new = [Metric(name, value, now, step) for name, value in named if step > self._last[name]]
        if new:
            self._client.log_batch(self._run, metrics=new)
        self._last |= {metric.key: step for metric in new}


def _key(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w./ -]", "-", name, flags=re.ASCII)
