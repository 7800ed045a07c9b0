from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chainkit import CHAIN_ID, MemoryStore, make_post, make_rows, write_chain

from sentiment.records import SCORED_SCHEMA
from streaming.audit import AuditReport, audit
from streaming.chain import Chain
from streaming.digest import block_digests
from streaming.footer import footer_of
from streaming.proof import compare_with_proof, keep_proof
from streaming.ranges import Ranges
from streaming.sink import encode
from streaming.store import LocalStore

Edit = Callable[[pa.Table], pa.Table]


def found(report: AuditReport) -> set[tuple[str, str, Ranges]]:
    return {(finding.kind, finding.code, finding.offsets) for finding in report.findings}


def path_of(start: int) -> str:
    return CHAIN_ID.path(start)


def rewrite(store: MemoryStore, start: int, edit: Edit, *, redigest: bool = False, **footer: object) -> None:
    """Change a committed file's rows as somebody with a Parquet library would, or its footer, or both consistently."""
    data = store.files[path_of(start)]
    table = edit(pq.read_table(pa.BufferReader(data)).cast(SCORED_SCHEMA))
    changed = dataclasses.replace(footer_of(data), **footer)
    if redigest:
        changed = dataclasses.replace(changed, rows=len(table), row_digests=block_digests(table))
    store.files[path_of(start)] = encode(table, changed)


def put(name: str, row: int, value: object) -> Edit:
    def edit(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        values = table.column(name).to_pylist()
        values[row] = value
        kind = table.schema.field(name).type
        plain = pa.array(values, kind.value_type if pa.types.is_dictionary(kind) else kind)
        return table.set_column(index, table.schema.field(name), plain.cast(kind))

    return edit


def same(table: pa.Table) -> pa.Table:
    return table


@pytest.fixture
def store() -> MemoryStore:
    """Origin [0, 100), then [100, 3100) with 3 dead and a hole, [3100, 3200), head [3200, 3300)."""
    store = MemoryStore()
    chain = write_chain(store, first=100)
    gone = {150, 151, 2000, 2001}
    rows = make_rows(offset for offset in range(100, 3100) if offset not in gone)
    chain.append_rows(rows, 3100, dead=[150, 151, 2000], holes=[2001])
    for end in (3200, 3300):
        chain.append_rows(make_rows(range(chain.end, end)), end)
    assert audit(store).ok
    return store


def test_a_whole_log_is_said_to_be_whole(store: MemoryStore) -> None:
    report = audit(store)
    (part,) = report.partitions
    assert (part.files, part.end, part.rows, part.dead, part.holes, part.skipped) == (4, 3300, 3196, 3, 1, 100)
    assert part.by_files_only == ((100, 3300),)
    assert part.proved == ()
    assert report.exit_code == 0
    assert "whole: every offset exactly once (3,196 rows" in report.to_text()
    payload = orjson.loads(report.to_json())
    assert (payload["ok"], payload["rows"], payload["partitions"][0]["end"]) == (True, 3196, 3300)


def test_an_empty_storage_is_whole_but_a_topic_asked_for_is_missing() -> None:
    assert audit(MemoryStore()).ok
    assert found(audit(MemoryStore(), topics=["posts"])) == {("missing", "no-files", ())}


@pytest.mark.parametrize(("start", "end"), [(0, 100), (100, 3100), (3100, 3200)])
def test_a_deleted_file_is_missing_offsets(store: MemoryStore, start: int, end: int) -> None:
    del store.files[path_of(start)]
    report = audit(store)
    assert found(report) == {("missing", "file-missing", ((start, end),))}
    assert report.exit_code == 1
    assert f"missing offsets {start}-{end - 1}:" in report.to_text()


@pytest.mark.parametrize(
    "name",
    [
        f"{CHAIN_ID.directory}/copy.parquet",
        f"{CHAIN_ID.directory}/{3150:020d}.parquet",
        path_of(3300),
        "scored/x.parquet",
        f"scored/posts@12345678/1/{3100:020d}.parquet",
        f"scored/other@12345678/0/{3100:020d}.parquet",
    ],
)
def test_a_copy_under_another_name_is_doubled_offsets(store: MemoryStore, name: str) -> None:
    store.files[name] = store.files[path_of(3100)]
    report = audit(store)
    kinds = {(finding.code, finding.path, finding.offsets) for finding in report.findings}
    assert kinds == {("file-misplaced", name, ((3100, 3200),))}
    assert "a copy or a renamed file" in report.to_text()


def test_a_renamed_file_is_missing_where_it_was_and_named_where_it_is(store: MemoryStore) -> None:
    store.files[path_of(3150)] = store.files.pop(path_of(3100))
    assert found(audit(store)) == {
        ("missing", "file-missing", ((3100, 3200),)),
        ("wrong", "file-misplaced", ((3100, 3200),)),
    }


def test_foreign_files_of_other_kinds(store: MemoryStore) -> None:
    store.files["scored/README.md"] = b"hello"
    report = audit(store)
    assert report.ok
    assert "README.md is not of the log" in report.to_text()
    store.files[f"{CHAIN_ID.directory}/mine.parquet"] = b"PAR1"
    assert found(audit(store)) == {("wrong", "foreign-file", ())}


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("text", "another text", "content-hash"),
        ("content_hash", "0" * 64, "content-hash"),
        ("p_positive", 0.123, "probabilities"),
        ("score", -0.123, "score"),
        ("confidence", 0.2, "confidence"),
        ("label", "unheard-of", "label"),
        ("topic", "other", "wrong-partition"),
        ("partition", 5, "wrong-partition"),
        ("experts_run", 0, "experts-run"),
        ("gate", 1.5, "gate"),
        ("bundle_id", "someone-elses", "bundle"),
        ("schema_version", 0, "schema-version"),
        ("ingested_at", datetime(2040, 1, 1, tzinfo=UTC), "time-order"),
        ("available_at", datetime(2041, 1, 1, tzinfo=UTC), "promise"),
    ],
)
def test_a_changed_value_is_named_by_its_offset(store: MemoryStore, name: str, value: object, code: str) -> None:
    rewrite(store, 3200, put(name, 7, value))
    report = audit(store)
    assert ("wrong", code, ((3207, 3208),)) in found(report)
    assert ("wrong", "row-digest", ((3200, 3300),)) in found(report)
    assert report.exit_code == 1


@pytest.mark.parametrize(
    ("name", "value"), [("source", "bloomberg"), ("lang", None), ("symbols", ["TSLA"]), ("vintage", "x")]
)
def test_a_change_that_stays_plausible_is_found_within_its_block(store: MemoryStore, name: str, value: object) -> None:
    rewrite(store, 100, put(name, 1500, value))
    report = audit(store)
    blocks = [finding for finding in report.findings if finding.code == "row-digest"]
    assert [finding.offsets for finding in blocks] == [((1126, 2000), (2002, 2152))]
    assert ("wrong", "predecessor-changed", ((100, 3100),)) in found(report)
    assert len(report.findings) == 2


def test_a_consistent_forgery_is_found_by_its_successor(store: MemoryStore) -> None:
    rewrite(store, 3100, put("source", 7, "bloomberg"), redigest=True)
    assert found(audit(store)) == {("wrong", "predecessor-changed", ((3100, 3200),))}


def test_swapped_rows_and_a_row_put_twice_and_a_row_taken_out(store: MemoryStore) -> None:
    original = dict(store.files)
    order = np.arange(100)
    order[[10, 11]] = [11, 10]
    rewrite(store, 3200, lambda table: table.take(order), redigest=True)
    assert found(audit(store)) == {("wrong", "order", ((3210, 3211),))}

    store.files = dict(original)
    rewrite(store, 3200, lambda table: table.take([*range(11), 10, *range(11, 100)]), redigest=True)
    assert found(audit(store)) == {("wrong", "order", ((3210, 3211),)), ("doubled", "offset-twice", ((3210, 3211),))}

    store.files = dict(original)
    rewrite(store, 3200, lambda table: table.take([*range(10), *range(15, 100)]), redigest=True)
    assert found(audit(store)) == {("missing", "rows-missing", ((3210, 3215),))}

    store.files = dict(original)
    rewrite(store, 3200, put("offset", 99, 9000), redigest=True)
    assert found(audit(store)) == {
        ("missing", "rows-missing", ((3299, 3300),)),
        ("wrong", "outside-range", ((9000, 9001),)),
    }


def test_a_row_count_that_fits_does_not_hide_a_wrong_offset(store: MemoryStore) -> None:
    """An audit that counted rows would pass: 100 rows in a range of 100."""
    rewrite(store, 3200, lambda table: table.take([*range(99), 98]), redigest=True)
    assert ("missing", "rows-missing", ((3299, 3300),)) in found(audit(store))
    assert ("doubled", "offset-twice", ((3298, 3299),)) in found(audit(store))


def test_a_changed_footer_is_found(store: MemoryStore) -> None:
    original = dict(store.files)

    def after(start: int, **footer: object) -> set[tuple[str, str, Ranges]]:
        store.files = dict(original)
        rewrite(store, start, same, **footer)
        return found(audit(store))

    assert after(3200, end=3310) == {("missing", "rows-missing", ((3300, 3310),))}
    assert after(3200, dead=((3250, 3260),)) == {("doubled", "claimed-twice", ((3250, 3260),))}
    assert after(3200, predecessor=None) == {("wrong", "predecessor", ((3200, 3300),))}
    assert after(3200, cluster_id="other") == {("wrong", "other-log", ((3200, 3300),))}
    assert after(3200, row_digests=()) == {("wrong", "row-digest", ((3200, 3300),))}
    assert after(3200, kind="gap") == {("wrong", "skip-with-rows", ((3200, 3300),))}
    early = footer_of(original[path_of(3100)]).available_at - timedelta(hours=1)
    assert ("wrong", "promise-order", ((3200, 3300),)) in after(3200, available_at=early)
    assert after(3100, reason="x") == {("wrong", "predecessor-changed", ((3100, 3200),))}
    assert after(3100, end=3150) == {
        ("wrong", "outside-range", ((3150, 3200),)),
        ("missing", "file-missing", ((3150, 3200),)),
    }
    assert after(3100, end=3250) == {
        ("missing", "rows-missing", ((3200, 3250),)),
        ("doubled", "fork", ((3200, 3250),)),
    }


def test_a_torn_file_is_unreadable_and_its_offsets_are_missing(store: MemoryStore) -> None:
    store.files[path_of(3100)] = store.files[path_of(3100)][:-9]
    assert found(audit(store)) == {("wrong", "unreadable", ()), ("missing", "file-missing", ((3100, 3200),))}


def test_damaged_pages_under_a_good_footer_are_unreadable_rows(store: MemoryStore) -> None:
    data = bytearray(store.files[path_of(3200)])
    data[4:2000] = bytes(1996)
    store.files[path_of(3200)] = bytes(data)
    assert ("wrong", "unreadable", ((3200, 3300),)) in found(audit(store))


def test_other_columns_are_a_schema_finding(store: MemoryStore) -> None:
    rewrite(store, 3200, lambda table: table.drop_columns(["vintage"]))
    assert found(audit(store)) == {
        ("wrong", "schema", ((3200, 3300),)),
    }


def test_repeated_posts_are_counted_and_are_no_fault() -> None:
    store = MemoryStore()
    chain = write_chain(store, 10)
    rows = make_rows([])
    from chainkit import make_scores

    posts = [make_post(1), make_post(3), make_post(11)]
    rows.add([10, 11, 12], [0] * 3, [0] * 3, posts, make_scores(3), scored_at_us=1)
    chain.append_rows(rows, 13)
    report = audit(store)
    assert report.ok
    assert report.repeated == 2
    assert "2 rows repeat a (source, id)" in report.to_text()


class FakeBroker:
    """What a Kafka that holds `[begin, end)` of one partition would answer."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.values = {offset: orjson.dumps({"text": make_post(offset).text}) for offset in range(begin, end)}
        self.values.pop(2001, None)
        for offset in (150, 151, 2000):
            self.values[offset] = b"not json"
        self.cluster, self.uuid, self.mirror = CHAIN_ID.cluster_id, CHAIN_ID.topic_uuid, None
        self.dead: Container[tuple[int, int]] | None = {(0, 150), (0, 151), (0, 2000)}
        self.numbers = [0]

    def cluster_id(self) -> str:
        return self.cluster

    def topic_uuid(self, topic: str) -> str | None:
        return self.uuid if topic == "posts" else None

    def partitions(self, topic: str) -> Sequence[int]:
        return self.numbers

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return (self.begin, self.end) if partition == 0 else (0, 5)

    def committed(self, topic: str, partition: int) -> int | None:
        return self.mirror

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[tuple[int, bytes | None]]:
        for offset in range(start, stop):
            if offset in self.values:
                yield offset, self.values[offset]

    def dead_letters(self, topic: str) -> Container[tuple[int, int]] | None:
        return self.dead


def test_what_the_broker_still_has_is_proved_apart_from_the_rest(store: MemoryStore) -> None:
    report = audit(store, broker=FakeBroker(1000, 3300), require_all_read=True)
    assert report.ok
    (part,) = report.partitions
    assert part.proved == ((1000, 3300),)
    assert part.by_files_only == ((100, 1000),)
    assert part.lag == 0
    assert "proved against the broker 2,300, by files only 900" in report.to_text()


def test_the_broker_contradicts_a_consistent_forgery_of_the_head(store: MemoryStore) -> None:
    from sentiment.records import content_hash

    rewrite(store, 3200, put("text", 5, "forged"))
    rewrite(store, 3200, put("content_hash", 5, content_hash("forged")), redigest=True)
    assert audit(store).ok  # the files alone cannot know
    report = audit(store, broker=FakeBroker(1000, 3300))
    assert found(report) == {("wrong", "broker-differs", ((3205, 3206),))}
    assert report.partitions[0].proved == ((1000, 3205), (3206, 3300))


def test_the_broker_has_a_record_that_the_file_calls_a_hole(store: MemoryStore) -> None:
    broker = FakeBroker(1000, 3300)
    broker.values[2001] = b'{"text": "here I am"}'
    assert found(audit(store, broker=broker)) == {("missing", "broker-has-it", ((2001, 2002),))}


def test_a_row_of_a_message_that_is_no_post(store: MemoryStore) -> None:
    broker = FakeBroker(1000, 3300)
    broker.values[1234] = b"not json"
    assert found(audit(store, broker=broker)) == {("wrong", "broker-differs", ((1234, 1235),))}


def test_dead_letters_must_be_in_their_topic(store: MemoryStore) -> None:
    broker = FakeBroker(100, 3300)
    broker.dead = {(0, 150), (1, 151)}
    assert found(audit(store, broker=broker)) == {("missing", "dead-letter-lost", ((151, 152), (2000, 2001)))}
    broker.dead = None
    assert audit(store, broker=broker).ok


def test_records_compacted_away_since_rest_on_the_files(store: MemoryStore) -> None:
    broker = FakeBroker(100, 3300)
    for offset in range(500, 600):
        del broker.values[offset]
    report = audit(store, broker=broker)
    assert report.ok
    assert report.partitions[0].by_files_only == ((500, 600),)


def test_the_ends_of_the_log_and_of_the_chain(store: MemoryStore) -> None:
    longer = FakeBroker(1000, 3400)
    report = audit(store, broker=longer)
    assert report.ok
    assert report.partitions[0].lag == 100
    assert found(audit(store, broker=longer, require_all_read=True)) == {("missing", "not-read", ((3300, 3400),))}
    assert found(audit(store, broker=FakeBroker(1000, 3250))) == {("wrong", "head-past-log-end", ((3250, 3300),))}
    assert found(audit(store, broker=FakeBroker(3350, 3400))) == {("missing", "log-truncated", ((3300, 3350),))}


def test_a_deleted_newest_file_shows_in_the_mirror(store: MemoryStore) -> None:
    broker = FakeBroker(1000, 3300)
    broker.mirror = 3300
    assert audit(store, broker=broker).ok
    del store.files[path_of(3200)]
    assert found(audit(store, broker=broker)) == {("missing", "mirror-ahead", ((3200, 3300),))}


def test_a_partition_without_files_is_not_read_yet(store: MemoryStore) -> None:
    broker = FakeBroker(1000, 3300)
    broker.numbers = [0, 1]
    report = audit(store, broker=broker)
    assert report.ok
    assert [(part.partition, part.files, part.lag) for part in report.partitions] == [(0, 4, 0), (1, 0, 5)]
    assert found(audit(store, broker=broker, require_all_read=True)) == {("missing", "not-read", ((0, 5),))}


def test_an_old_incarnation_or_another_cluster_is_audited_by_files_only(store: MemoryStore) -> None:
    for attribute, value in (("uuid", "99999999-0000-0000-0000-000000000000"), ("cluster", "cluster-2")):
        broker = FakeBroker(1000, 3300)
        setattr(broker, attribute, value)
        report = audit(store, broker=broker)
        assert report.ok
        assert report.partitions[0].proved == ()
        assert "by files only" in report.notes[0]


def test_several_chains_and_a_choice_of_topics(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    other = dataclasses.replace(CHAIN_ID, topic="news", partition=3)
    write_chain(store, 5, 8)
    write_chain(store, 4, chain_id=other)
    report = audit(store)
    assert [(part.topic, part.partition, part.rows) for part in report.partitions] == [("news", 3, 4), ("posts", 0, 8)]
    (tmp_path / other.path(0)).unlink()
    (tmp_path / CHAIN_ID.path(0)).unlink()
    assert len(audit(store).findings) == 1  # a chain without any file left is seen by its topic or its mirror only
    assert found(audit(store, topics=["news"])) == {("missing", "no-files", ())}


def test_progress_is_told_in_rows(store: MemoryStore) -> None:
    seen: list[int] = []
    audit(store, on_progress=seen.append)
    assert seen == [0, 2996, 100, 100]


def test_a_file_of_another_writer_has_a_place_too(store: MemoryStore) -> None:
    Chain.open(store, CHAIN_ID, writer_id="second").append_gap(3400, "accepted by hand")
    report = audit(store)
    assert report.ok
    assert report.partitions[0].skipped == 200


def test_a_stream_that_goes_on_during_the_audit_is_not_a_fault(store: MemoryStore) -> None:
    """The mirror is read before the files are listed: read later it would be ahead of the list."""

    class Running(FakeBroker):
        listed = False

        def committed(self, topic: str, partition: int) -> int | None:
            return 3400 if self.listed else 3300

    broker = Running(1000, 3400)
    listing = store.list
    calls = []

    def list_and_go_on(*args: object, **named: object) -> object:
        calls.append(args)
        broker.listed = len(calls) > 1  # the listing that is audited
        return listing(*args, **named)  # type: ignore[arg-type]

    store.list = list_and_go_on  # type: ignore[method-assign,assignment]
    assert audit(store, broker=broker).ok
    assert len(calls) == 2


def test_a_choice_of_topics_does_not_hide_copies_that_readers_glob(store: MemoryStore) -> None:
    copied = path_of(3200)
    store.put_if_absent("scored/backup/0/" + copied.rpartition("/")[2], store.get(copied))
    report = audit(store, topics=[copied.split("/")[1].partition("@")[0]])
    assert {finding.kind for finding in report.findings} == {"doubled"}


def test_a_removed_newest_file_is_noticed_by_files_alone_after_a_proof(tmp_path: Path, store: MemoryStore) -> None:
    proved = audit(store, broker=FakeBroker(1000, 3300))
    assert proved.ok
    compare_with_proof(tmp_path, proved, [])
    keep_proof(tmp_path, proved)
    whole = audit(store)
    compare_with_proof(tmp_path, whole, [])
    assert whole.ok
    gone = AuditReport()
    compare_with_proof(tmp_path, gone, [])
    assert found(gone) == {("missing", "shorter-than-proved", ((0, 3300),))}


def test_without_a_proof_the_audit_says_what_it_cannot_see(tmp_path: Path, store: MemoryStore) -> None:
    report = audit(store)
    compare_with_proof(tmp_path, report, [])
    assert report.ok
    assert "newest file could not be noticed" in " ".join(report.notes)
