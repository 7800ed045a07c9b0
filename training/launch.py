"""Ray for training: a cluster to run on, one TorchTrainer for all pending stages, its progress on this console."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from rich.console import Console

from sentiment.errors import ConfigError, SentimentError, SetupError
from training.progress import Bars, Board
from training.worker import Assignment, run_stages

ROOT: Final = Path(__file__).resolve().parent.parent
_POLL_S: Final = 0.25
_JOB_ENV: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray's job supervisor, and by nothing else, in the environment of an entry point under `ray job submit`."""


def submitted_job() -> bool:
    """Whether this process is the entry point of `ray job submit`."""
    try:
        return "job_submission_id" in json.loads(os.environ.get(_JOB_ENV, "{}")).get("metadata", {})
    except ValueError:
        return False


def absolute_storage(storage: str) -> Path:
    """The directory under which a run writes.

    Raises:
        ConfigError: it is relative under `ray job submit`, where the working directory is a temporary one on some node,
            or it is a URI of anything but local files.
    """
    parts = urlsplit(storage)
    if parts.scheme not in ("", "file"):
        raise ConfigError(f"setting `storage` = {storage!r}: training writes to a directory (shared on several nodes)")
    path = Path(parts.path if parts.scheme else storage).expanduser()
    if not path.is_absolute() and submitted_job():
        raise ConfigError(
            f"setting `storage` = {storage!r} is relative: under `ray job submit` its files would stay in a temporary "
            f"directory on some node. Give a path that all nodes share, e.g. `--storage /mnt/shared/{path.name}`"
        )
    return path.absolute()


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray for the block: the one already initialised, else the cluster of RAY_ADDRESS, else a local one of our own.

    What this starts or connects to is shut down at the end, on Ctrl-C too; what others initialised stays.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SetupError(f"RAY_ADDRESS = {address}: no Ray cluster answers there ({error})") from error
    else:
        ray.init(address="local", include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def train(assignment: Assignment, run_name: str, console: Console) -> None:
    """Run the pending stages on Ray Train workers and show their progress; returns when all are complete.

    Raises:
        ConfigError: more workers than CPUs.
        SentimentError: whatever a stage refused, as it was raised in the worker.
    """
    workers = assignment.settings.workers
    cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]  # Ray ships no type
    if workers > cpus:
        raise ConfigError(f"setting `workers` = {workers}: the cluster has {cpus} CPUs, and each worker needs one")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    environment = _environment()
    board: Any = ray.remote(num_cpus=0, runtime_env=environment)(Board).remote()
    runs = assignment.storage / "runs"
    shutil.rmtree(runs / run_name, ignore_errors=True)  # Ray Train resumes from what it finds; finished stages are ours
    run_config = RunConfig(  # type: ignore[call-arg]  # version 2 when it runs, version 1 to a type checker
        name=run_name, storage_path=str(runs), worker_runtime_env=environment
    )
    trainer = TorchTrainer(
        run_stages,
        # By reference: Ray Train's controller reads this config too, but need not have our packages.
        train_loop_config={"assignment": ray.put(replace(assignment, board=board))},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=run_config,
        torch_config=TorchConfig(backend="gloo"),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  # handed over to the main thread below
            failure.append(error)

    # In a thread of its own: fit() on the main thread replaces the process's SIGINT handler for good.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with Bars(console) as bars:
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            bars.draw(ray.get(board.states.remote()))
    ray.kill(board)
    if failure:
        raise _cause(failure[0])


def _environment() -> dict[str, Any]:
    """Workers find our packages also when this command runs in another directory; a submitted job ships them itself."""
    if submitted_job():
        return {}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}


def _cause(error: BaseException) -> BaseException:
    """The stage's own refusal, if there is one inside Ray Train's error."""
    seen: list[BaseException] = [error]
    for current in seen:
        if isinstance(current, SentimentError):
            return current
        inner = [current.__cause__, *getattr(current, "worker_failures", {}).values(), getattr(current, "cause", None)]
        seen += [item for item in inner if isinstance(item, BaseException) and item not in seen]
    return error
