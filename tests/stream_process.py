"""A worker process for tests that kill it: settings as JSON, a fast scorer inside, the real stream around it."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from stream_scorers import TestScorer  # noqa: E402  # after the path is set

from streaming.run import stop_on_signals, summary  # noqa: E402
from streaming.settings import StreamSettings  # noqa: E402
from streaming.worker import run_stream  # noqa: E402

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    scorer = TestScorer()
    with stop_on_signals() as stop:
        report = run_stream(StreamSettings(**json.loads(sys.argv[1])), scorer, stop=stop)
    scorer.close()
    sys.stdout.write(summary(report) + "\n")
    sys.exit(1 if report.failed or not report.drained else 0)
