"""Lists the jobs: `python -m ray_jobs`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

COMMANDS_ELSEWHERE = {
    "python -m streaming run": "consume topics and write scored Parquet, one plain process, scoring over HTTP",
    "python -m streaming replay": "publish JSONL, CSV or Parquet to Kafka, in real time x speed or as fast as it goes",
    "python -m streaming audit": "prove that every offset is a row or a dead letter, exactly once",
    "python -m streaming status": "per partition: lag, head, age, why it is paused",
    "python -m streaming.local_broker": "one real Kafka broker on this machine",
    "serve run serve.app:build bundle=PATH": "the HTTP endpoint by Serve's own command",
}


def jobs() -> dict[str, str]:
    """Each job's command and the first sentence of its docstring, read without importing it."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        tree = ast.parse(path.read_text())
        summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[f"python -m ray_jobs.{path.stem}"] = summary.partition(":")[0].rstrip(".")
    return found


def main() -> None:
    """Print the list; a word after `ray_jobs` is answered with the right form of the command."""
    commands = jobs() | COMMANDS_ELSEWHERE
    width = max(map(len, commands))
    lines = [f"  {command:<{width}}  {summary}" for command, summary in commands.items()]
    text = "Jobs (each has --help with an example, --print_config with every default):\n" + "\n".join(lines) + "\n"
    if len(sys.argv) > 1 and (word := sys.argv[1]) not in ("-h", "--help"):
        sys.exit(f"error: no command `{word}`; jobs are called with a dot: `python -m ray_jobs.{word}`\n{text}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
