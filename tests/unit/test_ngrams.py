from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sentiment.ngrams import NgramSettings, hashed_ngrams, normalise

ROOT = Path(__file__).parents[2]
SETTINGS = NgramSettings(sizes=(2, 3, 4), buckets=65_536)
MASK = (1 << 64) - 1
# Bundles in the field depend on these: a change is Breaking.
GOLDEN_OFFSETS = [0, 15, 16, 19]
GOLDEN_IDS = [
    9077,
    28444,
    39762,
    38203,
    7366,
    20637,
    42660,
    44523,
    43935,
    48317,
    14435,
    25578,
    38445,
    22559,
    54925,
    18138,
    11452,
    48735,
    65,
]


def naive(text: str, settings: NgramSettings) -> list[int]:
    """The definition, one n-gram at a time."""
    points = [ord(character) for character in normalise(text)]
    ids = []
    for size in settings.sizes:
        for start in range(len(points) - size + 1):
            value = 0xCBF29CE484222325 ^ size
            for point in points[start : start + size]:
                value = (value ^ point) * 0x100000001B3 & MASK
            value = value * 0x9E3779B97F4A7C15 & MASK
            ids.append((value >> 32) % settings.buckets)
    return ids


# Surrogates included: a Python str may hold them.
TEXTS = st.lists(st.text(st.characters(), max_size=12), max_size=6)


@given(texts=TEXTS, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3), buckets=st.integers(1, 1 << 20))
def test_vectorised_hashing_equals_the_definition(texts: list[str], sizes: list[int], buckets: int) -> None:
    settings = NgramSettings(sizes=tuple(sizes), buckets=buckets)
    ids, offsets = hashed_ngrams(texts, settings)
    assert ids.dtype == np.int32
    assert offsets.dtype == np.int64
    assert len(offsets) == len(texts) + 1
    for index, text in enumerate(texts):
        assert ids[offsets[index] : offsets[index + 1]].tolist() == naive(text, settings)


def test_golden_values() -> None:
    ids, offsets = hashed_ngrams(["利好 Up", "", "🚀"], SETTINGS)
    assert offsets.tolist() == GOLDEN_OFFSETS
    assert ids.tolist() == GOLDEN_IDS


def test_another_process_with_another_hash_seed_gives_the_same_ids() -> None:
    code = (
        "from sentiment.ngrams import *; s = NgramSettings(sizes=(2, 3, 4), buckets=65_536);"
        "print(hashed_ngrams(['利好 Up', '', '🚀'], s)[0].tolist())"
    )
    for seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
            cwd=ROOT,
        )
        assert answer.stdout.strip() == str(GOLDEN_IDS)


def test_width_case_and_white_space_do_not_matter_but_word_borders_do() -> None:
    def ids(text: str) -> list[int]:
        return hashed_ngrams([text], SETTINGS)[0].tolist()

    assert ids("ＡＢＣ　１２３") == ids("abc 123") == ids("\tAbC \n 123 ")
    assert set(ids("up")) - set(ids("supply")), "a word's borders are part of its n-grams"


def test_no_texts_and_texts_shorter_than_any_ngram() -> None:
    assert hashed_ngrams([], SETTINGS)[1].tolist() == [0]
    ids, offsets = hashed_ngrams(["a", "b"], NgramSettings(sizes=(9,)))
    assert len(ids) == 0
    assert offsets.tolist() == [0, 0, 0]
