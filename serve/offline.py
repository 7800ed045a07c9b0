"""Score a file: texts in from text, CSV, JSONL or Parquet, rows out as JSONL, CSV or Parquet, in the order of the file.

A few hundred rows are in memory at a time, whatever the size of the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from sentiment.errors import DataError
from sentiment.labels import LABELS, NEGATIVE, POSITIVE
from sentiment.records import SCORED_SCHEMA, Scores

ScoreTexts = Callable[[Sequence[str]], Scores]

_COPIED: Final = (
    "id text label p_negative p_neutral p_positive score confidence expert gate experts_run disagreement bundle_id"
).split()
TABLE_SCHEMA: Final = pa.schema(
    [SCORED_SCHEMA.field(name).with_nullable(name in {"id", "disagreement"}) for name in _COPIED]
)
"""One scored text: the columns of the live log that do not come from Kafka."""


class TextRow(NamedTuple):
    """One text to score."""

    id: str | None
    """as the file has it"""
    text: str


def read_lines(stream: BinaryIO, name: str) -> Iterator[TextRow]:
    """One text per line, in UTF-8; blank lines are left out.

    Raises:
        DataError: a line is not UTF-8.
    """
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: line {number} is not UTF-8 ({error.reason}); convert the file first") from None
        if text:
            yield TextRow(None, text)


def read_texts(path: Path, column: str) -> Iterator[TextRow]:
    """The texts of a file by its suffix: .txt, .csv, .jsonl or .parquet; an `id` column is carried along.

    Raises:
        DataError: no such file, an unknown suffix, no such column, a row without text; the message names the row.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    readers = {".txt": _lines_of, ".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise DataError(f"{path}: suffix `{path.suffix}` is not known; use one of {', '.join(readers)}")
    return readers[path.suffix](path, column)


def _lines_of(path: Path, _column: str) -> Iterator[TextRow]:
    with path.open("rb") as stream:
        yield from read_lines(stream, str(path))


def _jsonl_rows(path: Path, column: str) -> Iterator[TextRow]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DataError(f"{path}: line {number} is not JSON ({error})") from None
            if not isinstance(record, dict):
                raise DataError(f"{path}: line {number} is not an object")
            yield _row(record.get("id"), record.get(column), f"{path}: line {number}", column)


def _csv_rows(path: Path, column: str) -> Iterator[TextRow]:
    try:
        header = pa.csv.open_csv(path).schema.names
        kept = _kept_columns(path, header, column)
        convert = pa.csv.ConvertOptions(include_columns=kept, column_types=dict.fromkeys(kept, pa.string()))
        parse = pa.csv.ParseOptions(newlines_in_values=True)
        with pa.csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
            yield from _arrow_rows(path, reader, column)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a CSV file with a header ({str(error)[:200]})") from None


def _parquet_rows(path: Path, column: str) -> Iterator[TextRow]:
    try:
        file = pa.parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({str(error)[:200]})") from None
    with file:
        kept = _kept_columns(path, file.schema_arrow.names, column)
        yield from _arrow_rows(path, file.iter_batches(batch_size=1_024, columns=kept), column)


def _kept_columns(path: Path, names: Sequence[str], column: str) -> list[str]:
    if column not in names:
        raise DataError(f"{path}: no column `{column}`; it has {', '.join(names)} (choose with --column)")
    return [column, "id"] if "id" in names and column != "id" else [column]


def _arrow_rows(path: Path, batches: Iterable[pa.RecordBatch], column: str) -> Iterator[TextRow]:
    number = 0
    for batch in batches:
        texts = batch.column(column).to_pylist()
        ids = batch.column("id").to_pylist() if "id" in batch.schema.names else [None] * len(texts)
        for row_id, text in zip(ids, texts, strict=True):
            number += 1
            yield _row(row_id, text, f"{path}: row {number}", column)


def _row(row_id: object, text: object, where: str, column: str) -> TextRow:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: `{column}` is {text!r:.80}, expected a text; leave the row out")
    return TextRow(None if row_id is None else str(row_id), text)


def scored_batches(rows: Iterable[TextRow], score: ScoreTexts, *, rows_per_call: int) -> Iterator[pa.RecordBatch]:
    """Score rows in order, `rows_per_call` at a time, as record batches of `TABLE_SCHEMA`."""
    remaining = iter(rows)
    while piece := list(itertools.islice(remaining, rows_per_call)):
        texts = [text for _, text in piece]
        yield scores_batch([row_id for row_id, _ in piece], texts, score(texts))


def scores_batch(ids: Sequence[str | None], texts: Sequence[str], scores: Scores) -> pa.RecordBatch:
    """Scores of N texts as one record batch of `TABLE_SCHEMA`."""
    p = scores.probabilities
    expert = scores.expert.astype(np.int64)
    columns: dict[str, Any] = {
        "id": pa.array(ids, pa.string()),
        "text": pa.array(texts, pa.string()),
        "label": pa.DictionaryArray.from_arrays(pa.array(p.argmax(axis=1), pa.int32()), pa.array(LABELS)),
        **{f"p_{name}": pa.array(p[:, index]) for index, name in enumerate(LABELS)},
        "score": pa.array(p[:, POSITIVE] - p[:, NEGATIVE]),
        "confidence": pa.array(p.max(axis=1)),
        "expert": pa.DictionaryArray.from_arrays(pa.array(expert, pa.int32()), pa.array(scores.experts)),
        "gate": pa.array(scores.gate[np.arange(len(texts)), expert]),
        "experts_run": pa.array(scores.experts_run),
        "disagreement": pa.array(scores.disagreement, mask=np.isnan(scores.disagreement)),
        "bundle_id": pa.array([scores.bundle_id] * len(texts)),
    }
    return pa.RecordBatch.from_arrays([columns[field.name] for field in TABLE_SCHEMA], schema=TABLE_SCHEMA)


def write_jsonl(batch: pa.RecordBatch, stream: BinaryIO) -> None:
    """Append the batch, one JSON object per line."""
    for record in batch.to_pylist():
        stream.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    stream.flush()


def open_writer(path: Path, stack: ExitStack) -> Callable[[pa.RecordBatch], None]:
    """A function that appends batches to a file of the kind its suffix says; the file is closed with the stack.

    Raises:
        DataError: the suffix is not .jsonl, .csv or .parquet.
    """
    if path.suffix == ".parquet":
        parquet = stack.enter_context(pa.parquet.ParquetWriter(path, TABLE_SCHEMA, compression="zstd"))
        append: Callable[[pa.RecordBatch], None] = parquet.write_batch
        return append
    if path.suffix == ".csv":
        plain = pa.schema([field.with_type(_plain(field.type)) for field in TABLE_SCHEMA])
        writer = stack.enter_context(pa.csv.CSVWriter(path, plain))
        return lambda batch: writer.write_batch(batch.cast(plain))
    if path.suffix == ".jsonl":
        stream = stack.enter_context(path.open("wb"))
        return lambda batch: write_jsonl(batch, stream)
    raise DataError(f"{path}: suffix `{path.suffix}` is not known; use .jsonl, .csv or .parquet")


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
