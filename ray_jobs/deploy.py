"""Serve a bundle: `python -m ray_jobs.deploy --bundle out/bundle`.

On a running Ray cluster it deploys and returns; the application lives on. Without one it starts Ray here and stays
until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from sentiment.cli import read_settings, run_command
from serve.deploy import DeploySettings, connect, deploy, disconnect, http_url
from serve.settings import bundle_path

__all__ = ["DeploySettings", "deploy", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Deploy and, where Ray was started here, stay."""
    settings = read_settings(
        DeploySettings,
        argv,
        prog="python -m ray_jobs.deploy",
        summary="Serve a bundle over HTTP and to the stream.",
        example="python -m ray_jobs.deploy --bundle out/bundle --port 8000",
    )
    bundle_path(settings.bundle)  # a wrong path is told before Ray starts
    started_here = connect(settings.address)
    try:
        # After `connect`, as Ray sets handlers of its own; SIGINT, too: a shell script's `&` starts us with it ignored.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        deploy(settings)
        url = http_url(settings)
        sys.stdout.write(f"serving {settings.bundle} at {url} (try it: {url}/docs)\n")
        if not started_here:
            sys.stdout.write(f"application `{settings.app}` stays on the cluster; `serve shutdown` ends it\n")
            return
        sys.stdout.write("Ctrl-C ends it\n")
        sys.stdout.flush()
        _wait_for_the_end()
    finally:
        if started_here:
            disconnect()


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _wait_for_the_end() -> None:
    try:
        while True:
            time.sleep(3_600)
    except KeyboardInterrupt:
        sys.stdout.write("stopping\n")


if __name__ == "__main__":
    run_command(main)
