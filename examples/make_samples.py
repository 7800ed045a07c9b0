"""python examples/make_samples.py [--check]: write examples/train.csv and examples/posts.jsonl from frames/*.toml.

train.csv is labelled and split by frame; posts.jsonl is an unlabelled stream, one line in a hundred broken on purpose.
All is invented and seeded. Training rows sharing eight consecutive tokens with heldout.csv, if it exists, are dropped.
"""

import argparse
import csv
import io
import json
import random
import re
import sys
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
SEED = "finsa-samples-1"
COLUMNS = ("id", "text", "label", "domain", "lang", "source", "published_at", "symbols", "split")
PER_CELL, MAX_FILLS = 450, 4  # rows per label, domain and language before any are dropped; rows per frame at most
BROKEN = 0.01  # the share of broken lines in the stream
KINDS = {  # how many texts the stream has, the least and the greatest length of one, and where it appears
    ("forum", "en"): (1920, 3, 400, ("r/teacupstocks", "TapeTalkers", "bagholder.lounge", "TickerPorch")),
    ("forum", "zh"): (1920, 3, 80, ("韭园股吧", "山顶论坛", "老街夜话", "红绿灯社区")),
    ("news", "en"): (1280, 20, 500, ("Harbour Ledger", "Meridian Wire", "Tallow Street Post", "Northline Business")),
    ("news", "zh"): (1280, 20, 140, ("智岫财讯", "观澜商报", "南屿财经", "晨钟证券报")),
}
SPOILT = {  # what a line of the stream may hold in place of a value
    "text": (b"null", b'""', b'" \\t\\u3000 "', b"42.5", b'"\xff\xfe\x80"', b'"\\ud83d"', b"[" * 3000 + b"]" * 3000),
    "published_at": (b"NaN", b'"the day before"'),
    "symbols": (b'"NONE"',),
    "id": (b'{"value":1}',),
}
dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
CJK = "\u3400-\u9fff\uf900-\ufaff"  # one character, one token; so is a run of other letters and digits
TOKEN = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")


class Frame(NamedTuple):
    """One sentence pattern, and the whole file it stands in."""

    text: str
    label: str
    domain: str
    lang: str
    split: str
    spec: dict[str, Any]


def ngrams(text: str, n: int) -> set[str]:
    """The n-grams of a text; one shorter than n tokens is one gram, so that equal short texts are found too."""
    words = TOKEN.findall(unicodedata.normalize("NFKC", text).lower())
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def shared_ngrams(a_texts: Sequence[str], b_texts: Sequence[str], n: int = 8) -> list[tuple[int, int, str]]:
    """(index in a, index in b, shared n-gram) for each pair of texts with n consecutive tokens in common."""
    where: dict[str, list[int]] = {}
    for j, text in enumerate(b_texts):
        for gram in ngrams(text, n):
            where.setdefault(gram, []).append(j)
    found = ((i, j, gram) for i, text in enumerate(a_texts) for gram in ngrams(text, n) for j in where.get(gram, ()))
    return [(i, j, gram) for (i, j), gram in {(i, j): gram for i, j, gram in sorted(found)}.items()]


def load_frames(folder: Path) -> Iterator[Frame]:
    """Every frame of every file, each with its split: 80/10/10 within each label, domain and language."""
    for path in sorted(folder.glob("*.toml")):
        spec, (lang, domain) = tomllib.loads(path.read_text(encoding="utf-8")), path.stem.split("_")
        for label in sorted(spec["frames"]):
            texts = sorted(set(spec["frames"][label]))
            random.Random(f"{SEED} split {lang} {domain} {label}").shuffle(texts)
            for place, text in enumerate(texts):
                split = {0: "validation", 1: "calibration"}.get(place * 10 // len(texts), "train")
                yield Frame(text, label, domain, lang, split, spec)


def fill(rng: random.Random, frame: Frame, filler: float) -> tuple[str, list[str]]:
    """The frame with its slots filled, perhaps with a neutral sentence before or after, and the tickers it names."""
    slots, text, gap = frame.spec["slots"], frame.text, " " if frame.lang == "en" else ""
    if rng.random() < filler:
        text = rng.choice(frame.spec["around"]["before"]) + gap + text
    if rng.random() < filler:
        pause = gap if text[-1] in "。！？….!?" else " " if text[-1] == "}" else ". " if gap else "，"
        text += pause + rng.choice(frame.spec["around"]["after"])
    name, _, ticker = rng.choice(slots["company"]).partition("|")
    pools: dict[str, list[str]] = {"company": [name], "ticker": [ticker]}  # the company is one throughout

    def value(match: re.Match[str]) -> str:
        values = slots.get(match[1], ())
        pool = pools.setdefault(match[1], rng.sample(values, len(values)))
        pool.append(pool.pop(0))  # another value each time
        return pool[-1]

    return re.sub(r"\{(\w+)\}", value, text).strip(), [ticker] if "{company}" in text or "{ticker}" in text else []


def moment(rng: random.Random, domain: str, lang: str, first: datetime, days: int) -> str:
    """A UTC time at which such a text might appear: mostly weekdays, news by day, forums thickest in trading hours."""
    while True:
        day = first + timedelta(days=rng.randrange(days))
        late = domain == "forum" and rng.random() < 0.3
        hour = rng.uniform(0, 24) if late else rng.triangular(6, 23, 16 if domain == "news" else 11)
        at = day + timedelta(hours=hour + (-8 if lang == "zh" else 4))
        if first <= at < first + timedelta(days=days) and (day.weekday() < 5 or rng.random() < 0.25):
            return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def entry(rng: random.Random, frame: Frame, seen: set[str], first: datetime, days: int) -> dict[str, Any] | None:
    """One filling of the frame that nothing has yet, within the length of its kind; None when none turns up."""
    _, low, high, sources = KINDS[frame.domain, frame.lang]
    for attempt in range(30):
        text, symbols = fill(rng, frame, filler=0.25 + attempt / 40)
        if text not in seen and low <= len(text) <= high:
            seen.add(text)
            at = moment(rng, frame.domain, frame.lang, first, days)
            values = ("", text, frame.label, frame.domain, frame.lang, rng.choice(sources), at, symbols, frame.split)
            return dict(zip(COLUMNS, values, strict=True))
    return None


def in_time(entries: list[dict[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """The entries in order of time, numbered."""
    entries.sort(key=lambda e: (e["published_at"], e["text"]))
    return [{**e, "id": f"{prefix}-{number:06d}"} for number, e in enumerate(entries, 1)]


def training_rows(frames: list[Frame], seen: set[str]) -> list[dict[str, Any]]:
    """The labelled rows in order of time; each pass over a cell's frames uses every frame at most once."""
    rows: list[dict[str, Any]] = []
    for key in sorted({(f.domain, f.lang, f.label) for f in frames}):
        rng, full = random.Random(f"{SEED} train {key}"), len(rows) + PER_CELL
        cell = [f for f in frames if (f.domain, f.lang, f.label) == key]
        for frame in (f for _ in range(MAX_FILLS) for f in rng.sample(cell, len(cell))):
            if len(rows) < full and (row := entry(rng, frame, seen, datetime(2026, 1, 5, tzinfo=UTC), 177)):
                rows.append({**row, "symbols": ";".join(row["symbols"])})
    return in_time(rows, "s")


def broken(kind: int, post: dict[str, Any]) -> bytes:
    """The post, spoilt in one of the ways a reader of the stream must survive."""
    line, text = dump(post), post["text"]
    without = {name: value for name, value in post.items() if name != "text"}
    ways = [dump({**post, name: "@@"}).encode().replace(b'"@@"', v, 1) for name in SPOILT for v in SPOILT[name]]
    ways += [w.encode() for w in (text, dump(text), dump([text]), dump(without), line[: line.index('"source"')])]
    return ways[kind % len(ways)]


def stream_lines(frames: list[Frame], seen: set[str]) -> Iterator[bytes]:
    """The lines of posts.jsonl in order of time, with texts that train.csv does not have."""
    rng = random.Random(f"{SEED} posts")
    posts: list[dict[str, Any]] = []
    for kind in sorted({(f.domain, f.lang) for f in frames}):
        cell, full = [f for f in frames if (f.domain, f.lang) == kind], len(posts) + KINDS[kind][0]
        while len(posts) < full:
            if post := entry(rng, rng.choice(cell), seen, datetime(2026, 7, 6, tzinfo=UTC), 5):
                posts.append({name: value for name, value in post.items() if name not in ("label", "split")})
    spoilt = sorted(rng.sample(range(len(posts)), round(len(posts) * BROKEN)))
    for place, post in enumerate(in_time(posts, "p")):
        yield broken(spoilt.index(place), post) if place in spoilt else dump(post).encode()


def main() -> int:
    """Make both files, or with --check compare them with what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the files are not up to date")
    check = parser.parse_args().check
    frames, seen = list(load_frames(HERE / "frames")), set[str]()
    rows = training_rows(frames, seen)
    if (HERE / "heldout.csv").exists():
        heldout = [row["text"] for row in csv.DictReader(io.StringIO((HERE / "heldout.csv").read_text("utf-8")))]
        shared = {i for i, _, _ in shared_ngrams([row["text"] for row in rows], heldout)}
        rows = [row for i, row in enumerate(rows) if i not in shared]
        print(f"{len(shared)} training rows dropped: they share 8 consecutive tokens with heldout.csv")
        left = shared_ngrams([row["text"] for row in rows], heldout)
        for i, j, gram in left:
            print(f"shared with heldout.csv: {gram!r}\n  {rows[i]['text']}\n  {heldout[j]}", file=sys.stderr)
        if left:
            return 1
    writer = csv.DictWriter(table := io.StringIO(), COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files = {"train.csv": table.getvalue().encode(), "posts.jsonl": b"\n".join([*stream_lines(frames, seen), b""])}
    stale = [name for name, data in files.items() if not (HERE / name).exists() or (HERE / name).read_bytes() != data]
    for cell, count in sorted(Counter((row["domain"], row["lang"], row["label"]) for row in rows).items()):
        print(*cell, count)
    print(len(rows), "rows,", files["posts.jsonl"].count(b"\n"), "posts; not up to date:", " ".join(stale) or "none")
    for name in () if check else stale:
        (HERE / name).write_bytes(files[name])
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
