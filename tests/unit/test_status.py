"""What people see: the live line, the status file, the summary of a worker."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

from rich.console import Console

from streaming.live import LiveLine, line
from streaming.progress import Counts, Fault, PartitionView, Progress, RateMeter, StreamReport
from streaming.protocols import TopicPartition
from streaming.run import summary
from streaming.status import StatusFile, workers
from streaming.store import LocalStore

P0, P1 = TopicPartition("posts", 0), TopicPartition("posts", 1)


def progress() -> Progress:
    return Progress(
        counts=Counts(polled=120, rows=100, files=3, dead_letters=Counter({"not-json": 2})),
        partitions=(
            PartitionView(P0, "running", "", committed=100, position=120, log_end=150),
            PartitionView(P1, "failed", "log-truncated: lost", committed=0, position=0, log_end=None),
        ),
        in_flight=16,
        waiting=20,
        rows_per_s=1_234.5,
        scorer_trouble="",
        seconds=3.0,
    )


def test_the_line_shows_rows_lag_in_flight_dead_letters_and_trouble() -> None:
    text = line(progress())
    for part in ("1,234 rows/s", "lag 50", "in flight 16", "dead letters 2", "posts/1 failed: log-truncated"):
        assert part in text


def test_it_is_drawn_on_a_terminal() -> None:
    out = io.StringIO()
    with LiveLine(1.0, Console(file=out, force_terminal=True, width=200)) as live:
        live(progress())
    assert "in flight 16" in out.getvalue()


def test_the_status_file_says_what_the_worker_knows_and_goes_with_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    file = StatusFile(store, "worker-1", "group", every_s=60)
    file(progress())
    file(progress())
    (found,) = workers(store)
    assert (found["writer_id"], found["group_id"], found["rows"]) == ("worker-1", "group", 100)
    assert [view["state"] for view in found["partitions"]] == ["running", "failed"]
    assert found["partitions"][0]["lag"] == 50
    file.remove()
    assert workers(store) == []


def test_the_summary_names_what_is_paused() -> None:
    fault = Fault("mirror-ahead", "the group has committed 9", P1, fatal=True)
    noticed = Fault("topic-recreated", "a new one", P0, fatal=False)
    report = StreamReport(1_000, 4, {"not-json": 2}, 1.5, (fault, noticed), "/data/stream", drained=False)
    text = summary(report)
    for part in ("1,000 rows in 4 files", "not-json 2", "paused: posts/1 mirror-ahead", "topic-recreated", "again"):
        assert part in text
    assert report.failed == (fault,)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = RateMeter(window_s=5.0)
    assert meter.rate(0) == 0
    meter._marks = [(meter._marks[0][0] - 10, 0)]
    assert 0 < meter.rate(1_000) < 110
