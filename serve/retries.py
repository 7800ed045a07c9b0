"""Which errors of a Ray Serve call pass by themselves, and calling again until they have.

Serve does not repeat a call that a replica had accepted before it died, so the caller must. Scoring has no side
effects: to send a call again is always safe.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
from ray.exceptions import RayError, RayTaskError, UnserializableException, UserCodeException
from ray.serve.exceptions import RayServeException

from sentiment.errors import ScorerUnavailable

T = TypeVar("T")

_TRANSPORT_ERRORS: Final = (RayError, RayServeException, grpc.RpcError, ScorerUnavailable)
CALL_ERRORS: Final = (*_TRANSPORT_ERRORS, TimeoutError)
"""Every kind that a call through a DeploymentHandle raises when the fault may not be in the rows."""

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0


def is_temporary(error: BaseException) -> bool:
    """Whether the same call may succeed later: a replica died, is starting, is full, or its node has gone.

    False for an error that the scoring code itself raised: it would raise it again.
    """
    if isinstance(error, RayTaskError):
        # What the replica's code raised, wrapped. It is temporary where the replica met a temporary error itself.
        cause = error.cause
        return isinstance(cause, _TRANSPORT_ERRORS) and cause is not error and is_temporary(cause)
    if isinstance(error, UserCodeException | UnserializableException):
        return False
    return isinstance(error, CALL_ERRORS)


def pauses() -> Iterator[float]:
    """Growing pauses with jitter, so that callers of a restarted replica do not return all at once [s]."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(pause * 2, LONGEST_PAUSE_S)


async def call_again(call: Callable[[], Awaitable[T]], *, deadline: float, what: str) -> T:
    """The answer of `call`, made again after temporary errors until the deadline.

    Args:
        call: makes one new call.
        deadline: on the clock of `time.monotonic` [s].
        what: who is called, for the error.

    Raises:
        ScorerUnavailable: no answer before the deadline.
        Exception: whatever the callee's own code raised.
    """
    for pause in pauses():
        try:
            async with asyncio.timeout_at(_loop_time(deadline)):
                return await call()
        except CALL_ERRORS as error:
            if not is_temporary(error):
                raise
            if time.monotonic() + pause >= deadline:
                raise ScorerUnavailable(f"{what} did not answer in time: {describe(error)}") from error
        await asyncio.sleep(pause)
    raise AssertionError("pauses() never ends")


def _loop_time(deadline: float) -> float:
    return asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())


def describe(error: BaseException) -> str:
    """One line about an error; Ray's own messages are pages long."""
    first_line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first_line[:200]}"
