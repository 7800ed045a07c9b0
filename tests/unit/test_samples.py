"""The project's own samples: enough of each kind, nothing held-out in the rest, 1% malformed in the stream."""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from sentiment.errors import MessageError
from sentiment.records import parse_post

EXAMPLES = Path(__file__).parents[2] / "examples"


def rows(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def make_samples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_samples", EXAMPLES / "make_samples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_samples"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "total", "cell"), [("train.csv", 1_500, 100), ("heldout.csv", 400, 30)])
def test_every_cell_is_filled(name: str, total: int, cell: int) -> None:
    posts = rows(name)
    counts = Counter((post["domain"], post["lang"], post["label"]) for post in posts)
    assert len(posts) >= total
    assert len(counts) == 12
    assert min(counts.values()) >= cell
    assert len({post["id"] for post in posts}) == len({post["text"] for post in posts}) == len(posts)


def test_no_eight_tokens_in_a_row_are_shared_with_the_heldout_set(make_samples: ModuleType) -> None:
    train, heldout = [row["text"] for row in rows("train.csv")], [row["text"] for row in rows("heldout.csv")]
    assert make_samples.shared_ngrams(train, heldout) == []
    assert make_samples.shared_ngrams([*train, "x " + heldout[0]], heldout)  # it does find one


def test_a_frame_is_in_one_split_only(make_samples: ModuleType) -> None:
    """Fillings of one frame share most of their words: across splits they would flatter every score."""
    train = rows("train.csv")
    matched = 0
    for frame in list(make_samples.load_frames(EXAMPLES / "frames"))[::25]:
        fixed = [re.escape(part) for part in re.split(r"\{\w+\}", frame.text)]
        if len("".join(fixed)) < (40 if frame.lang == "en" else 14):
            continue  # a short frame may match a filling of another
        pattern = re.compile(".+?".join(fixed))
        found = {row["split"] for row in train if row["lang"] == frame.lang and pattern.search(row["text"])}
        assert found <= {frame.split}, frame.text
        matched += len(found)
    assert matched > 30
    assert {row["split"] for row in train} == {"train", "validation", "calibration"}


def test_the_stream_is_in_time_order_with_one_percent_malformed() -> None:
    lines = (EXAMPLES / "posts.jsonl").read_bytes().splitlines()
    reasons: Counter[str] = Counter()
    times = []
    for line in lines:
        try:
            post = parse_post(line)
        except MessageError as error:
            reasons[error.reason] += 1
        else:
            assert post.published_at is not None
            times.append(post.published_at)
    assert len(lines) >= 5_000
    assert 0.008 <= reasons.total() / len(lines) <= 0.012
    assert len(reasons) >= 6
    assert times == sorted(times)
