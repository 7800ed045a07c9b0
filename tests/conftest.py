"""Fixtures shared by all tiers: a real Kafka broker for the session."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.local_broker import LocalBroker, broker_address

# Topics of the tests hold 10 MB messages, and retention is checked often so that a test can wait for it.
BROKER_PROPERTIES = {
    "message.max.bytes": "20000000",
    "replica.fetch.max.bytes": "20000000",
    "log.retention.check.interval.ms": "500",
    "log.segment.delete.delay.ms": "100",
    "delete.topic.enable": "true",
}


# A shell's background job starts with SIGINT ignored, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files (make golden)")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten instead of compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap servers of one real broker, shared by the session; tests use topics and groups of their own."""
    with broker_address(BROKER_PROPERTIES) as bootstrap_servers:
        yield bootstrap_servers


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[LocalBroker]:
    """A broker for one test that kills it."""
    with LocalBroker.running(tmp_path / "kafka", properties=BROKER_PROPERTIES) as broker:
        yield broker
