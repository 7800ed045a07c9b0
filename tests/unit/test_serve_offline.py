"""Scoring files without a cluster."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from serve_fakes import BUNDLE_ID, fake_scores
from small_bundle import TEXTS, make_small_bundle

from ray_jobs.score import main
from sentiment.errors import ConfigError, DataError
from sentiment.model.predict import MixturePredictor
from sentiment.records import Scores
from serve.offline import TABLE_SCHEMA, TextRow, read_lines, read_texts, scored_batches
from serve.score_file import write_output

ROWS = [TextRow("a", "profit, up\nand up"), TextRow("b", '"quoted" 利好'), TextRow("c", "down")]


def write_inputs(directory: Path) -> dict[str, Path]:
    table = pa.table({"x": [1, 2, 3], "text": [row.text for row in ROWS], "id": [row.id for row in ROWS]})
    paths = {suffix: directory / f"in.{suffix}" for suffix in ("csv", "jsonl", "parquet")}
    pa.csv.write_csv(table, paths["csv"])
    pa.parquet.write_table(table, paths["parquet"])
    paths["jsonl"].write_bytes(b"\n".join(orjson.dumps(record) for record in table.to_pylist()) + b"\n\n")
    return paths


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    for path in write_inputs(tmp_path).values():
        assert list(read_texts(path, "text")) == ROWS, path.suffix


def test_lines_keep_their_order_and_blank_ones_are_left_out() -> None:
    stream = io.BytesIO("up\n\n  \n下跌\r\nlast".encode())
    assert list(read_lines(stream, "stdin")) == [TextRow(None, "up"), TextRow(None, "下跌"), TextRow(None, "last")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"id,body\n1,up\n", "no column `text`; it has id, body"),
        ("a.csv", b"id,text\n1,up\n2,\n", "row 2: `text` is"),
        ("a.jsonl", b'{"text": "up"}\n{"text": 5}\n', "line 2: `text` is 5"),
        ("a.jsonl", b'{"text": "up"}\nnope\n', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is not an object"),
        ("a.txt", b"up\n\xff\n", "line 2 is not UTF-8"),
        ("a.parquet", b"junk", "not a Parquet file"),
        ("a.xlsx", b"junk", "suffix `.xlsx` is not known"),
    ],
)
def test_what_cannot_be_read_names_the_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        list(read_texts(path, "text"))
    assert says in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_texts(tmp_path / "none.csv", "text")


def test_rows_are_scored_in_order_a_few_at_a_time() -> None:
    calls: list[int] = []

    def score(texts: Sequence[str]) -> Scores:
        calls.append(len(texts))
        return fake_scores(texts)

    rows = [TextRow(str(index), "x" * (index + 1)) for index in range(7)]
    table = pa.Table.from_batches(scored_batches(rows, score, rows_per_call=3))
    assert calls == [3, 3, 1]
    assert table.schema == TABLE_SCHEMA
    assert table["id"].to_pylist() == [row.id for row in rows]
    np.testing.assert_allclose(table["p_positive"], [(index + 1) / 1_000 for index in range(7)], rtol=1e-6)
    first = table.to_pylist()[0]
    assert (first["label"], first["expert"], first["experts_run"], first["bundle_id"]) == (
        "negative",
        "news",
        1,
        BUNDLE_ID,
    )
    assert (first["gate"], first["disagreement"]) == (0.75, None)
    assert first["score"] == pytest.approx(0.001 - 0.749)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_what_is_written_can_be_read_again(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / f"out.{suffix}"
    write_output(scored_batches(ROWS, fake_scores, rows_per_call=2), str(output))
    assert "3 rows" in capsys.readouterr().out
    assert list(read_texts(output, "text")) == ROWS
    if suffix == "parquet":
        assert pa.parquet.read_table(output)["label"].to_pylist() == ["negative"] * 3


def test_an_output_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`.xml` is not known"):
        write_output(scored_batches(ROWS, fake_scores, rows_per_call=2), str(tmp_path / "out.xml"))


def test_the_command_scores_with_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_small_bundle(tmp_path / "b")
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(TEXTS), encoding="utf-8")
    main(["--bundle", str(bundle.path), "--input", str(source), "--output", str(output), "--rows_per_call", "3"])
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    expected = MixturePredictor(bundle).score(TEXTS)
    assert [row["text"] for row in rows] == TEXTS
    np.testing.assert_allclose([row["p_negative"] for row in rows], expected.probabilities[:, 0], atol=1e-5)
    assert {row["bundle_id"] for row in rows} == {bundle.manifest.bundle_id}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "set `bundle`"),
        (["--bundle", "/b", "--url", "http://x"], "one of them"),
        (["--bundle", "/b", "--text", "a", "--input", "f.txt"], "`text` and `input`"),
        (["--bundle", "/nowhere"], "no bundle at /nowhere"),
    ],
)
def test_contradictions_are_refused(arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"up\n")))
    with pytest.raises(ConfigError, match=says):
        main(arguments)
