"""`python -m streaming <command>`: the stream without ray and torch."""

from __future__ import annotations

import importlib
import sys
from typing import Final

from sentiment.cli import run_command

COMMANDS: Final = {
    "run": ("streaming.run", "read posts from Kafka, score them over HTTP, write Parquet exactly once"),
    "replay": ("streaming.replay", "publish posts from JSONL, CSV or Parquet to Kafka, in real time or faster"),
    "audit": ("streaming.audit_job", "prove that every offset is a row or a dead letter, exactly once"),
    "status": ("streaming.status", "lag, end of files and trouble of every partition"),
}


def usage() -> str:
    """All commands, a line each."""
    lines = [f"  {name:8} {what}" for name, (_, what) in COMMANDS.items()]
    return "usage: python -m streaming <command> [--help]\n\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Run the named command."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if command not in COMMANDS:
        sys.stderr.write(f"unknown command `{command}`\n{usage()}")
        return 2
    result: int | None = importlib.import_module(COMMANDS[command][0]).main(rest)
    return result or 0


if __name__ == "__main__":
    run_command(main)
