"""Every error a user can meet: one base class and eight kinds. Messages name the field and the remedy."""

from __future__ import annotations


class SentimentError(Exception):
    """Base of all errors this project raises on purpose; a command ends with its message and status 1."""


class ConfigError(SentimentError):
    """A setting is missing, unknown or impossible; the message names its full key."""


class SetupError(SentimentError):
    """The machine lacks something (Java, disk space, a package, a reachable broker); the message says how to get it."""


class DataError(SentimentError):
    """Labelled data cannot be used as they are; the message names the file, the rows and the column."""


class BundleError(SentimentError):
    """A bundle is absent, damaged, of a newer format, or holds an expert equal to its base."""


class MessageError(SentimentError):
    """A Kafka message is not a post. It becomes a dead letter with this `reason`; the stream goes on.

    `reason` is a short stable slug (metrics are counted by it), `detail` is for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ScorerUnavailable(SentimentError):
    """No answer from the scorer for now (starting, restarting, overloaded). Rows are kept and sent again."""


class ScorerRejected(SentimentError):
    """The scorer answers, but not for these rows. The batch is bisected until the offending row is alone."""


class ChainError(SentimentError):
    """The chain of files and the broker disagree, so the partition is paused and nothing is written.

    `code` is a stable slug (`topic-recreated`, `log-truncated`, ...), listed with remedies in docs/architecture.md.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
