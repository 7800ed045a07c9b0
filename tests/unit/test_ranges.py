from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streaming.ranges import clip, count, coverage, expand, merge, ranges_of, show, subtract

offset_sets = st.sets(st.integers(0, 60))
spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])))


def members(ranges: object) -> list[int]:
    return [offset for start, stop in ranges for offset in range(start, stop)]  # type: ignore[attr-defined]


@given(offset_sets)
def test_ranges_hold_exactly_the_offsets(offsets: set[int]) -> None:
    ranges = ranges_of(list(offsets))
    assert members(ranges) == sorted(offsets) == expand(ranges).tolist()
    assert count(ranges) == len(offsets)


@given(spans, st.integers(0, 30), st.integers(0, 30))
def test_coverage_says_what_is_missing_and_what_is_doubled(parts: list[tuple[int, int]], start: int, size: int) -> None:
    stop = start + size
    missing, doubled = coverage(parts, start, stop)
    held = members(parts)
    assert members(missing) == [offset for offset in range(start, stop) if offset not in held]
    assert set(members(doubled)) == {offset for offset in held if held.count(offset) > 1}


@given(spans, spans)
def test_set_operations_agree_with_sets(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    assert members(merge(left)) == sorted(set(members(left)))
    assert members(subtract(merge(left), right)) == sorted(set(members(left)) - set(members(right)))
    assert members(clip(merge(left), 5, 20)) == sorted(set(members(left)) & set(range(5, 20)))


def test_a_person_reads_both_ends() -> None:
    assert show(((3, 7), (12, 13))) == "3-6, 12"
    assert show(tuple((i, i + 1) for i in range(0, 40, 2)), limit=2) == "0, 2 and 18 more ranges"
