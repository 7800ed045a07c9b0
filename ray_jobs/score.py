"""Score a text, a file or stdin: `python -m ray_jobs.score --bundle out/bundle --text "profit up 12%"`.

No cluster is needed: the bundle is loaded in this process, or a running service is asked (`--url`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sentiment.cli import read_settings, run_command
from sentiment.errors import ConfigError
from serve.offline import ScoreTexts, scored_batches
from serve.score_file import ScoreSettings, open_input, write_output
from serve.settings import bundle_path


def main(argv: Sequence[str] | None = None) -> None:
    """Read, score, write."""
    settings = read_settings(
        ScoreSettings,
        argv,
        prog="python -m ray_jobs.score",
        summary="Score a text, a file or stdin with a bundle or through a running service.",
        example='python -m ray_jobs.score --bundle out/bundle --text "profit up 12%"',
    )
    rows = open_input(settings)
    with open_scorer(settings) as score:
        write_output(scored_batches(rows, score, rows_per_call=settings.rows_per_call), settings.output)


@contextmanager
def open_scorer(settings: ScoreSettings) -> Iterator[ScoreTexts]:
    """The service at `url`, or the bundle in this process."""
    if bool(settings.bundle) == bool(settings.url):
        raise ConfigError("set `bundle` (score here) or `url` (ask a running service), one of them")
    if settings.url:
        from streaming.scorer import HttpScorer

        scorer = HttpScorer(settings.url)
        try:
            yield lambda texts: scorer.submit(texts).result()
        finally:
            scorer.close()
    else:
        from sentiment.bundle import load_bundle
        from sentiment.model.predict import MixturePredictor

        yield MixturePredictor(load_bundle(bundle_path(settings.bundle))).score


if __name__ == "__main__":
    run_command(main)
