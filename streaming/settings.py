"""How a stream is run: every setting of `python -m streaming run`, with its unit."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT
from sentiment.errors import ConfigError, SetupError
from streaming.sink import AvailabilitySettings, RollSettings

SERVERS_VARIABLE: Final = "KAFKA_BOOTSTRAP_SERVERS"
STOP_GRACE_S: Final = 5.0
"""what leaving the group and the last commit may take beyond `drain_timeout_s` [s]"""


def split_names(names: tuple[str, ...] | str) -> tuple[str, ...]:
    """Names from a list or from one string with commas, each once, in order; none from an empty string."""
    parts = names.split(",") if isinstance(names, str) else names
    return tuple(dict.fromkeys(name.strip() for name in parts if name.strip()))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class KafkaSettings:
    """Where the brokers are."""

    bootstrap_servers: str = ""
    """`host:port`, several separated by commas; empty reads the variable KAFKA_BOOTSTRAP_SERVERS"""
    max_message_bytes: PositiveInt = 16 * 1024 * 1024
    """largest message that is fetched or produced; the topic's own limit applies as well [bytes]"""
    request_timeout_s: PositiveFloat = 30.0
    """how long one request may take [s]"""

    def servers(self) -> list[str]:
        """The brokers' addresses.

        Raises:
            SetupError: neither the setting nor the variable names one.
        """
        named = self.bootstrap_servers or os.environ.get(SERVERS_VARIABLE, "")
        servers = [part.strip() for part in named.split(",") if part.strip()]
        if not servers:
            raise SetupError(
                f"no Kafka broker is named: set --kafka.bootstrap_servers host:port or {SERVERS_VARIABLE}; "
                "`make kafka` starts one on this machine"
            )
        return servers


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StartSettings:
    """Where a partition without a chain begins. A partition that has one always goes on at its end."""

    policy: Literal["earliest", "latest", "timestamp"] = "earliest"
    """earliest offset the broker has, only what comes from now on, or the first message at `timestamp`"""
    timestamp: str = ""
    """for policy `timestamp`: ISO-8601 with an offset, compared with Kafka's own timestamps"""

    def timestamp_ms(self) -> int:
        """`timestamp` in milliseconds since 1970.

        Raises:
            ConfigError: it is not a time or has no UTC offset.
        """
        try:
            moment = datetime.fromisoformat(self.timestamp)
        except ValueError:
            raise ConfigError(f"setting `start.timestamp`: {self.timestamp!r} is not ISO-8601") from None
        if moment.tzinfo is None:
            raise ConfigError(f"setting `start.timestamp`: {self.timestamp!r} has no UTC offset, e.g. +00:00")
        return int(moment.astimezone(UTC).timestamp() * 1000)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoringSettings:
    """How rows are sent to the scorer, per partition."""

    url: str = "http://127.0.0.1:8000"
    """the scorer's address, for the plain process that scores over HTTP"""
    max_call_rows: PositiveInt = 1024
    """most rows of one call [rows]"""
    max_call_chars: PositiveInt = 400_000
    """most text of one call; servers limit the size of a request [characters]"""
    max_call_s: PositiveFloat = 0.5
    """a call is cut where its estimated work exceeds this [s]"""
    linger_ms: NonNegativeFloat = 20.0
    """how long a row waits for others to share its call [ms]"""
    calls_in_flight: PositiveInt = 4
    """most calls of one partition at a time [calls]"""
    budget_rows: PositiveInt = 20_000
    """reading pauses while this many rows of a partition wait for scores [rows]"""
    budget_bytes: PositiveInt = 64 * 1024 * 1024
    """reading pauses while this much of a partition waits for scores [bytes]"""
    timeout_s: PositiveFloat = 60.0
    """how long one call may take before it counts as unanswered [s]"""
    retry_s: PositiveFloat = 1.0
    """pause before rows are sent again to a scorer that did not answer [s]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DeadLetterSettings:
    """Where messages go that cannot be scored."""

    suffix: str = ".dlq"
    """the dead letters of topic T go to the topic T + suffix"""
    partitions: PositiveInt = 1
    """partitions of that topic where it must be created [partitions]"""
    max_value_bytes: PositiveInt = 900_000
    """larger messages travel as hash and coordinates only; Kafka's default limit for a message is 1,048,588 [bytes]"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StreamSettings:
    """A worker of the stream: which topics, from where, into which directory."""

    topics: tuple[str, ...] | str
    """topics to score: a list in YAML, or names separated by commas"""
    storage: str
    """absolute path or file URI of the output; files go under `<storage>/scored/`"""
    group_id: str = "finsa"
    """Kafka consumer group: workers of the same group share the partitions"""
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    start: StartSettings = Field(default_factory=StartSettings)
    roll: RollSettings = Field(default_factory=RollSettings)
    scoring: ScoringSettings = Field(default_factory=ScoringSettings)
    availability: AvailabilitySettings = Field(default_factory=AvailabilitySettings)
    dead_letters: DeadLetterSettings = Field(default_factory=DeadLetterSettings)
    isolation_level: Literal["read_uncommitted", "read_committed"] = "read_uncommitted"
    """read_committed skips aborted transactions; their offsets are recorded as holes"""
    accept_gaps: bool = False
    """go on where retention deleted messages that were never scored: the lost range is recorded as a gap"""
    store_text: bool = True
    """write the text itself; without it only its hash is kept"""
    group_instance_id: str = ""
    """static membership: a worker started again under this name takes its partitions back at once; every worker needs
    its own, and a stopped one keeps them until `session_timeout_s` is over"""
    session_timeout_s: Annotated[float, Field(ge=6)] = 30.0
    """a worker that is silent for so long loses its partitions [s]"""
    until_end: bool = False
    """stop when everything that was in the topics at the start is committed"""
    stop_when_idle_s: NonNegativeFloat = 0.0
    """stop when nothing came for so long and all is committed; 0 runs until it is stopped [s]"""
    drain_timeout_s: PositiveFloat = 20.0
    """how long a stopping worker waits for scores on their way [s]"""
    report_every_s: PositiveFloat = 5.0
    """pause between two lines of progress where there is no terminal, and between two status files [s]"""

    def topic_names(self) -> tuple[str, ...]:
        """The topics, each once.

        Raises:
            ConfigError: there is none.
        """
        names = split_names(self.topics)
        if not names:
            raise ConfigError("setting `topics`: name at least one topic, e.g. --topics posts.news,posts.forum")
        return names
