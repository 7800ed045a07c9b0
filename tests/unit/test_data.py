"""Labelled texts: what is refused and how it is named, splits, label spaces, domains."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sentiment.errors import ConfigError, DataError
from training.data import DataSettings, LabelledTexts, choose_domains, read_labelled, with_splits

COLUMNS = ("id", "text", "label", "domain", "source", "split")
ROWS = [
    ("a", "profit up", "positive", "news", "wire", ""),
    ("b", "扣非净利润下滑", "利空", "news", "wire", ""),
    ("c", "to the moon", "Bullish", "forum", "board", ""),
    ("d", "meh, flat", "1", "forum", "board", ""),
]


def write(path: Path, rows: list[tuple[str, ...]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return str(path)


def replaced(row: int, column: str, value: str) -> list[tuple[str, ...]]:
    rows = [list(values) for values in ROWS]
    rows[row][COLUMNS.index(column)] = value
    return [tuple(values) for values in rows]


def many(count: int, splits: tuple[str, ...] = ()) -> LabelledTexts:
    return LabelledTexts(
        ids=[f"t{i}" for i in range(count)],
        texts=[f"Text  number {i // 2}" if i % 2 else f"text number {i // 2}" for i in range(count)],
        labels=np.arange(count) // 2 % 3,
        domains=["news" if i // 2 % 4 else "forum" for i in range(count)],
        langs=["en"] * count,
        sources=["s"] * count,
        splits=list(splits) or [""] * count,
        label_space=np.ones((count, 3), dtype=bool),
        published=[""] * count,
    )


def test_labels_are_read_in_every_spelling(tmp_path: Path) -> None:
    texts = read_labelled(write(tmp_path / "t.csv", ROWS), DataSettings())
    assert texts.labels.tolist() == [2, 0, 2, 1]
    assert texts.langs == ["en", "zh", "en", "en"]
    assert texts.domains == ["news", "news", "forum", "forum"]


def test_csv_jsonl_and_parquet_give_the_same_texts(tmp_path: Path) -> None:
    records = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "t.parquet")
    prints = {
        read_labelled(path, DataSettings()).fingerprint()
        for path in (write(tmp_path / "t.csv", ROWS), str(tmp_path / "t.jsonl"), str(tmp_path / "t.parquet"))
    }
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (2, "label", "hopeful", "row 3, column `label`: unknown label 'hopeful'"),
        (1, "label", "", "row 2, column `label`: unknown label ''"),
        (3, "id", "b", "row 4, column `id`: 'b' is also the id of row 2"),
        (0, "text", "  ", "row 1, column `text`: empty"),
        (3, "domain", "", "row 4, column `domain`: empty"),
        (0, "split", "dev", "row 1, column `split`: unknown split 'dev'"),
    ],
)
def test_a_bad_value_is_refused_by_row_and_column(
    tmp_path: Path, row: int, column: str, value: str, message: str
) -> None:
    path = write(tmp_path / "t.csv", replaced(row, column, value))
    with pytest.raises(DataError) as refused:
        read_labelled(path, DataSettings())
    assert message in str(refused.value)
    assert path in str(refused.value)


def test_many_bad_values_are_counted(tmp_path: Path) -> None:
    rows = [(f"i{n}", "text", "no idea", "news", "", "") for n in range(25)]
    with pytest.raises(DataError, match=r"25 bad values.*and 15 more"):
        read_labelled(write(tmp_path / "t.csv", rows), DataSettings())


def test_a_missing_column_a_missing_file_and_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,text,label\n1,a,positive\n", encoding="utf-8")
    (tmp_path / "t.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match="no column `domain`"):
        read_labelled(str(tmp_path / "t.csv"), DataSettings())
    with pytest.raises(DataError, match="no such file"):
        read_labelled(str(tmp_path / "absent.csv"), DataSettings())
    with pytest.raises(DataError, match=r"\.csv, \.jsonl or \.parquet"):
        read_labelled(str(tmp_path / "t.txt"), DataSettings())


def test_own_names_for_labels_and_label_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", replaced(0, "label", "STRONG BUY"))
    settings = DataSettings(label_map={"strong buy": "positive"}, label_spaces={"board": ("negative", "positive")})
    texts = read_labelled(path, settings)
    assert texts.labels[0] == 2
    assert texts.label_space.tolist() == [[True] * 3, [True] * 3, [True, False, True], [True, False, True]]


def test_splits_keep_equal_texts_together_and_every_stratum_everywhere() -> None:
    texts = with_splits(many(1200), DataSettings(), seed=3)
    by_text: dict[str, set[str]] = {}
    for text, split in zip(texts.texts, texts.splits, strict=True):
        by_text.setdefault(" ".join(text.lower().split()), set()).add(split)
    assert all(len(splits) == 1 for splits in by_text.values())
    cells = {(texts.domains[i], int(texts.labels[i]), texts.splits[i]) for i in range(len(texts))}
    assert len(cells) == 2 * 3 * 3
    assert 90 <= texts.splits.count("validation") <= 150
    assert 90 <= texts.splits.count("calibration") <= 150


def test_splits_are_fixed_by_the_seed_and_kept_where_the_file_has_them() -> None:
    first, again, other = (with_splits(many(300), DataSettings(), seed=seed).splits for seed in (3, 3, 4))
    assert first == again != other
    kept = tuple("calibration" if i < 150 else "" for i in range(300))
    assert with_splits(many(300, kept), DataSettings(), seed=3).splits[:150] == ["calibration"] * 150
    whole = ("train", "validation", "calibration") * 100
    assert with_splits(many(300, whole), DataSettings(), seed=3).splits == list(whole)


def test_a_file_that_only_knows_train_and_test_gives_up_some_training_texts() -> None:
    given = tuple("test" if i % 10 < 2 else "train" for i in range(600))
    splits = with_splits(many(600, given), DataSettings(), seed=3).splits
    assert [i for i, split in enumerate(splits) if split == "test"] == [i for i in range(600) if i % 10 < 2]
    assert 35 <= splits.count("validation") <= 65
    assert 35 <= splits.count("calibration") <= 65


def test_the_fingerprint_sees_every_part() -> None:
    texts = many(10)
    prints = {texts.fingerprint(), texts.take(range(9)).fingerprint(), texts.take(reversed(range(10))).fingerprint()}
    relabelled = many(10)
    relabelled.labels[0] = 1
    assert len(prints | {relabelled.fingerprint()}) == 4


def test_domains_come_from_the_data_or_the_settings() -> None:
    texts = many(40)
    assert choose_domains(texts, DataSettings()) == ("forum", "news")
    assert choose_domains(texts, DataSettings(domains=("news", "forum"))) == ("news", "forum")
    with pytest.raises(ConfigError, match="'tweets'"):
        choose_domains(texts, DataSettings(domains=("news", "tweets")))
    with pytest.raises(ConfigError, match="two domains"):
        choose_domains(texts, DataSettings(domains=("news",)))
    with pytest.raises(DataError, match="forum"):
        texts.domain_index(("news", "tweets"))
