"""`python -m streaming audit`: the proof on the command line, with or without the brokers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from pydantic import Field
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT, read_settings
from streaming.audit import audit
from streaming.kafka_audit import KafkaView
from streaming.proof import compare_with_proof, keep_proof
from streaming.settings import DeadLetterSettings, KafkaSettings, split_names
from streaming.store import LocalStore, open_store


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AuditSettings:
    """What to audit against what."""

    storage: str
    """absolute path or file URI of the stream's output"""
    topics: tuple[str, ...] | str = ""
    """only these topics: a list in YAML, or names separated by commas; empty audits every topic found"""
    group_id: str = "finsa"
    """the stream's consumer group"""
    files_only: bool = False
    """do not ask the brokers: prove from the files alone"""
    require_all_read: bool = False
    """count messages that no file has reached yet as missing"""
    isolation_level: str = "read_uncommitted"
    """as the stream was run"""
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    dead_letters: DeadLetterSettings = Field(default_factory=DeadLetterSettings)
    json: bool = False
    """print JSON instead of text"""


def main(argv: Sequence[str] | None = None) -> int:
    """Audit; 1 where anything is missing, doubled or wrong."""
    settings = read_settings(
        AuditSettings,
        argv,
        prog="python -m streaming audit",
        summary="Prove that every offset is a row or a dead letter, exactly once.",
        example="python -m streaming audit --storage $PWD/out/stream --topics posts.news,posts.forum",
    )
    topics = split_names(settings.topics)
    with contextlib.ExitStack() as stack:
        broker = None
        if not settings.files_only:
            view = KafkaView(
                settings.kafka,
                group_id=settings.group_id,
                dead_letter_suffix=settings.dead_letters.suffix,
                isolation_level=settings.isolation_level,
            )
            broker = stack.enter_context(view)
        store = open_store(settings.storage)
        report = audit(store, broker=broker, topics=topics, require_all_read=settings.require_all_read)
    if isinstance(store, LocalStore):
        compare_with_proof(store.root, report, topics)
        keep_proof(store.root, report)
    sys.stdout.write(report.to_json().decode() + "\n" if settings.json else report.to_text() + "\n")
    return report.exit_code
