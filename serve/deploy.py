"""Bring an application up on Ray, wait until it answers, and hand back its handle."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from ray import serve
from ray.serve.context import _get_global_client

from sentiment.cli import STRICT
from sentiment.errors import SetupError
from serve.app import build_application
from serve.client import for_threads
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger(__name__)

APP_NAME = "finsa"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DeploySettings(ServeSettings):
    """Where and how to serve a bundle."""

    address: str = ""
    """the Ray cluster; empty: $RAY_ADDRESS or the one running here, else Ray is started here; `local`: always start one
    [address]"""
    app: str = APP_NAME
    """name of the Serve application [name]"""
    host: str = "127.0.0.1"
    """who may ask: 0.0.0.0 lets other machines in [address]"""
    port: PositiveInt = 8_000
    """of the HTTP interface [port]"""
    ready_timeout_s: PositiveFloat = 180.0
    """how long to wait until every replica answers [s]"""


def connect(address: str, *, start: bool = True) -> bool:
    """Connect to a cluster, or start Ray here where there is none and `start` allows it.

    Returns:
        Whether Ray was started here: then it ends with this process.

    Raises:
        SetupError: there is an address, but nothing answers there; or there is no cluster and none may be started.
    """
    if ray.is_initialized():
        return False
    named = address or os.environ.get("RAY_ADDRESS", "")
    if named != "local":
        try:
            ray.init(address=named or "auto", log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            if not (named or start):
                raise SetupError(
                    "no Ray cluster runs here: serve a bundle first (`python -m ray_jobs.deploy --bundle ...`), "
                    "or name the cluster with --address"
                ) from error
            if named:
                raise SetupError(
                    f"no Ray cluster answers at {named} ({error}). Start one (ray start --head), or give its token: "
                    "clusters want one by default, see RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH in Ray's documentation"
                ) from error
        else:
            return False
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return True


def disconnect() -> None:
    """End the Ray that `connect` started, and Serve with it; no process of theirs stays behind."""
    ray.shutdown()


def deploy(settings: DeploySettings) -> DeploymentHandle[Any]:
    """Serve `settings.bundle` on the connected cluster and wait until it answers.

    Returns:
        The router stage's handle: `handle.score.remote(texts)`.

    Raises:
        ConfigError, BundleError: the bundle cannot be served.
        SetupError: the cluster is too small, or a replica did not come up; the message names which and why.
    """
    application = build_application(settings)
    serve.start(proxy_location="HeadOnly", http_options={"host": settings.host, "port": settings.port})
    if f":{settings.port}" not in (url := http_url(settings)):
        log.warning("Serve already runs here and keeps its address: %s", url)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            serve.run(application, name=settings.app, route_prefix="/")
        except Exception as error:  # noqa: BLE001  # handed to the waiting thread, which raises it
            failure.append(error)

    # serve.run waits for ever where a replica finds no room, so it waits in a thread and we keep the time.
    thread = threading.Thread(target=run, name="serve-run", daemon=True)
    thread.start()
    deadline = time.monotonic() + settings.ready_timeout_s
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(timeout=0.2)
    if failure or thread.is_alive():
        why = not_ready(settings.app) or (str(failure[0]) if failure else "no reason is known")
        within = "" if failure else f" within {settings.ready_timeout_s:g} s"
        raise SetupError(f"application `{settings.app}` did not come up{within}: {why}") from (
            failure[0] if failure else None
        )
    return for_threads(serve.get_app_handle(settings.app))


def not_ready(app: str) -> str:
    """Which deployments of an application do not run, and why, in one line."""
    application = serve.status().applications.get(app)
    if application is None:
        return ""
    waiting = [
        f"{name} is {deployment.status.value} ({_states(deployment.replica_states)}): {_last_line(deployment.message)}"
        for name, deployment in application.deployments.items()
        if deployment.status.value != "HEALTHY"
    ]
    return "; ".join(waiting) or _last_line(application.message)


def http_url(settings: DeploySettings) -> str:
    """Where the HTTP interface answers, as seen from this machine.

    A Serve that was already running keeps the address it was started with, whatever the settings say.
    """
    client = _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    options: Any = client.http_config if client is not None else settings
    host = "127.0.0.1" if options.host in {"0.0.0.0", "::", None} else options.host  # noqa: S104  # compared, not bound
    return f"http://{host}:{options.port}"


def _states(replica_states: Mapping[Any, int]) -> str:
    counts = [f"{count} {getattr(state, 'value', state)}" for state, count in replica_states.items()]
    return f"replicas: {', '.join(counts) or 'none'}"


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given; is there room for it? see `ray status`"
