from __future__ import annotations

import pickle
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentiment.batching import EncodedTexts, offsets_from_lengths, token_budget_batches

RAGGED = st.lists(
    st.tuples(st.lists(st.integers(0, 99), max_size=6), st.lists(st.integers(0, 99), max_size=6)), max_size=8
)


def encoded(rows: list[tuple[list[int], list[int]]]) -> EncodedTexts:
    tokens, ngrams = [row[0] for row in rows], [row[1] for row in rows]
    return EncodedTexts(
        np.array(list(chain(*tokens)), np.int32),
        offsets_from_lengths([len(row) for row in tokens]),
        np.array(list(chain(*ngrams)), np.int32),
        offsets_from_lengths([len(row) for row in ngrams]),
    )


def decoded(texts: EncodedTexts) -> list[tuple[list[int], list[int]]]:
    tokens = np.split(texts.token_ids, texts.token_offsets[1:-1]) if len(texts) else []
    ngrams = np.split(texts.ngram_ids, texts.ngram_offsets[1:-1]) if len(texts) else []
    return [(a.tolist(), b.tolist()) for a, b in zip(tokens, ngrams, strict=True)]


@given(lengths=st.lists(st.integers(1, 600), max_size=80), budget=st.integers(1, 5_000))
def test_batches_hold_every_text_once_sorted_and_within_budget(lengths: list[int], budget: int) -> None:
    batches = token_budget_batches(np.array(lengths, np.int64), budget)
    indices = [int(index) for batch in batches for index in batch]
    assert sorted(indices) == list(range(len(lengths)))
    assert [lengths[index] for index in indices] == sorted(lengths)
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= budget or len(batch) == 1
    for batch, following in pairwise(batches):  # no batch could have taken one more
        assert (len(batch) + 1) * lengths[following[0]] > budget


def test_ties_keep_input_order_and_a_budget_of_nothing_is_refused() -> None:
    assert [batch.tolist() for batch in token_budget_batches(np.array([3, 1, 3, 1]), 6)] == [[1, 3], [0, 2]]
    with pytest.raises(ValueError, match="max_padded_tokens"):
        token_budget_batches(np.array([1]), 0)


@given(rows=RAGGED, data=st.data())
def test_take_and_concatenate_equal_list_operations(
    rows: list[tuple[list[int], list[int]]], data: st.DataObject
) -> None:
    texts = encoded(rows)
    assert texts.lengths.tolist() == [len(row[0]) for row in rows]
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)) if rows else []
    assert decoded(texts.take(indices)) == [rows[index] for index in indices]
    cut = data.draw(st.integers(0, len(rows)))
    halves = [texts.take(range(cut)), texts.take(range(cut, len(rows)))]
    assert decoded(EncodedTexts.concatenate(halves)) == rows
    assert decoded(texts.without_ngrams()) == [(row[0], []) for row in rows]


def test_the_wire_form_survives_pickling_with_its_types() -> None:
    texts = pickle.loads(pickle.dumps(encoded([([1, 2], [3]), ([], [])])))  # noqa: S301  # our own bytes, as Ray sends
    assert decoded(texts) == [([1, 2], [3]), ([], [])]
    assert texts.token_ids.dtype == texts.ngram_ids.dtype == np.int32
    assert texts.token_offsets.dtype == texts.ngram_offsets.dtype == np.int64
    assert len(EncodedTexts.concatenate([])) == 0
