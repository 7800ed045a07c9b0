"""What `python -m ray_jobs.score` reads and writes; who scores is its caller's choice."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.table import Table

from sentiment.cli import STRICT
from sentiment.errors import ConfigError
from serve.offline import TextRow, open_writer, read_lines, read_texts, write_jsonl


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoreSettings:
    """What to score, with what, and where to put it."""

    bundle: str = ""
    """score in this process with this bundle [path]"""
    url: str = ""
    """or ask a running service, e.g. http://127.0.0.1:8000 [URL]"""
    text: str = ""
    """one text to score; without it and without `input`, lines are read from stdin [text]"""
    input: str = ""
    """file to score: .txt (a text per line), .csv, .jsonl or .parquet [path]"""
    column: str = "text"
    """the column that holds the text [name]"""
    output: str = ""
    """file to write: .jsonl, .csv or .parquet; else a table is shown, or JSONL where stdout is no terminal [path]"""
    rows_per_call: PositiveInt = 256
    """rows scored together [rows]"""


def open_input(settings: ScoreSettings) -> Iterator[TextRow]:
    """The rows to score.

    Raises:
        ConfigError: both a text and a file are given.
        DataError: the file cannot be read.
    """
    if settings.text and settings.input:
        raise ConfigError("`text` and `input` are both set; give one of them")
    if settings.text:
        return iter([TextRow(None, settings.text)])
    if settings.input:
        return read_texts(Path(settings.input), settings.column)
    return read_lines(sys.stdin.buffer, "stdin")


def write_output(batches: Iterable[pa.RecordBatch], output: str) -> None:
    """Write record batches to the file, or show them where there is none."""
    if output:
        path, rows = Path(output).resolve(), 0
        with ExitStack() as stack:
            write = open_writer(path, stack)
            for batch in batches:
                write(batch)
                rows += len(batch)
        sys.stdout.write(f"{rows:,} rows in {path}\n")
    elif sys.stdout.isatty():
        _show(batches)
    else:
        for batch in batches:
            write_jsonl(batch, sys.stdout.buffer)


def _show(batches: Iterable[pa.RecordBatch]) -> None:
    table = Table("label", "score", "confidence", "expert", "gate", "text")
    for batch in batches:
        for row in batch.to_pylist():
            numbers = f"{row['score']:+.3f}", f"{row['confidence']:.3f}"
            table.add_row(row["label"], *numbers, row["expert"], f"{row['gate']:.3f}", row["text"][:80])
    Console().print(table)
