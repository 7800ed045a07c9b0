"""Labelled texts: read, refuse what cannot be trained on, split.

    columns: id, text, label, domain; optional: lang, source, published_at, symbols, split (CSV, JSONL or Parquet)

An unknown label, a duplicate id or an empty text is never guessed at or skipped: it is refused with its row and column.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT
from sentiment.errors import ConfigError, DataError
from sentiment.labels import DEFAULT_LABEL_MAP, LABELS, parse_label

TRAIN: Final = "train"
VALIDATION: Final = "validation"
CALIBRATION: Final = "calibration"
SPLITS: Final = (TRAIN, VALIDATION, CALIBRATION)

_REQUIRED: Final = ("id", "text", "label", "domain")
_OPTIONAL: Final = ("lang", "source", "split", "published_at")
_SHOWN_PROBLEMS: Final = 10
_HAN: Final = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataSettings:
    """Which labelled texts, and how they are split."""

    train: str = "examples/train.csv"
    """labelled texts to train on [path to CSV, JSONL or Parquet]"""
    heldout: str = ""
    """labelled texts for the report only, empty for none [path to CSV, JSONL or Parquet]"""
    domains: tuple[str, ...] = ()
    """one expert each, in this order; empty: every domain of the training file, alphabetically [names]"""
    label_map: dict[str, str] = Field(default_factory=dict)
    """extra names for labels, e.g. {"-1": negative} [name in the file: negative | neutral | positive]"""
    label_spaces: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """sources that lack a label, e.g. {stocktwits: [negative, positive]} [source: possible labels]"""
    left_out_sources: tuple[str, ...] = ()
    """sources kept out of training and calibration; the threshold is fitted on them [names]"""
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """for early stopping, where the file has no `split` column [share of texts]"""
    calibration_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """for temperature and threshold, where the file has no `split` column [share of texts]"""


@plain_dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTexts:
    """N labelled texts in file order.

    Attributes:
        labels: `[N]` int64, index into `sentiment.labels.LABELS`.
        domains: N domain names.
        langs: N languages, `zh` or `en` by script where the file does not say.
        sources: N source names, empty where unknown.
        splits: N of train, validation, calibration; empty strings where the file has no such column.
        label_space: `[N, 3]` bool, the labels an annotator of this source could have chosen.
        published: N times as written, empty where unknown.
    """

    ids: list[str]
    texts: list[str]
    labels: NDArray[np.int64]
    domains: list[str]
    langs: list[str]
    sources: list[str]
    splits: list[str]
    label_space: NDArray[np.bool_]
    published: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Iterable[int] | NDArray[np.int64]) -> LabelledTexts:
        """The texts at `rows`, in that order."""
        index = np.fromiter(rows, dtype=np.int64)
        lists = {
            name: [getattr(self, name)[row] for row in index]
            for name in ("ids", "texts", "domains", "langs", "sources", "splits", "published")
        }
        return LabelledTexts(**lists, labels=self.labels[index], label_space=self.label_space[index])

    def where(self, split: str) -> LabelledTexts:
        """The texts of one split."""
        return self.take(row for row, name in enumerate(self.splits) if name == split)

    def domain_index(self, domains: Sequence[str]) -> NDArray[np.int64]:
        """`[N]` int64, the position of each text's domain in `domains`.

        Raises:
            DataError: a text's domain is not among them.
        """
        position = {name: index for index, name in enumerate(domains)}
        if unknown := sorted(set(self.domains) - position.keys()):
            raise DataError(f"column `domain` holds {', '.join(unknown)}; the experts are {', '.join(domains)}")
        return np.array([position[name] for name in self.domains], dtype=np.int64)

    def fingerprint(self) -> str:
        """sha256 (hex) over everything that training reads."""
        digest = hashlib.sha256()
        columns = (self.ids, self.texts, self.domains, self.langs, self.sources, self.splits, self.published)
        for row in zip(*columns, strict=True):
            digest.update("\x1f".join(row).encode("utf-8", "surrogatepass") + b"\x1e")
        digest.update(self.labels.tobytes() + self.label_space.tobytes())
        return digest.hexdigest()


def read_labelled(path: str, settings: DataSettings) -> LabelledTexts:
    """Read one file of labelled texts.

    Raises:
        DataError: the file is absent or of another kind, lacks a column, or holds rows that cannot be used; the message
            names the first of them by row (1 = the first row of data) and column, and counts the rest.
    """
    columns = {name: _strings(column) for name, column in _read_columns(path).items()}
    if missing := [name for name in _REQUIRED if name not in columns]:
        raise DataError(f"{path}: no column `{missing[0]}`; it has {', '.join(columns)}")
    count = len(columns["id"])
    if not count:
        raise DataError(f"{path}: no rows")
    columns |= {name: [""] * count for name in _OPTIONAL if name not in columns}
    labels, problems = _labels(columns["label"], _label_map(settings))
    problems += _row_problems(columns)
    if problems:
        raise DataError(f"{path}: {_refusal(problems, _label_map(settings))}")
    sources = columns["source"]
    return LabelledTexts(
        ids=columns["id"],
        texts=columns["text"],
        labels=labels,
        domains=columns["domain"],
        langs=[lang or guess_lang(text) for lang, text in zip(columns["lang"], columns["text"], strict=True)],
        sources=sources,
        splits=columns["split"],
        label_space=_label_space(sources, settings.label_spaces),
        published=columns["published_at"],
    )


def guess_lang(text: str) -> str:
    """`zh` where the text has a Chinese character, else `en`."""
    return "zh" if _HAN.search(text) else "en"


def normalised(text: str) -> str:
    """Equal for texts that a reader would call the same: NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def with_splits(texts: LabelledTexts, settings: DataSettings, seed: int) -> LabelledTexts:
    """Fill in missing splits: stratified by domain and label, identical normalised texts always together.

    A text's split depends on its own content and the seed only, so adding rows moves few others. Splits that the file
    has are kept; where it has no validation (or calibration) texts at all, its training texts give some up.
    """
    splits = list(texts.splits)
    shares = {VALIDATION: settings.validation_share, CALIBRATION: settings.calibration_share}
    lacking = {name: share for name, share in shares.items() if name not in splits}
    strata: dict[tuple[str, str, int], dict[str, list[int]]] = {}
    first_stratum: dict[tuple[str, str], tuple[str, str, int]] = {}
    for row, split in enumerate(splits):
        if not split or (split == TRAIN and lacking):
            key = normalised(texts.texts[row])
            stratum = first_stratum.setdefault((split, key), (split, texts.domains[row], int(texts.labels[row])))
            strata.setdefault(stratum, {}).setdefault(key, []).append(row)
    for (split, _, _), groups in strata.items():
        order = sorted(groups, key=lambda key: _draw(seed, key))
        for name, share in (lacking if split else shares).items():
            count = max(1, round(len(groups) * share)) if len(groups) > len(SPLITS) else 0
            taken, order = order[:count], order[count:]
            for row in (row for key in taken for row in groups[key]):
                splits[row] = name
        for row in (row for key in order for row in groups[key]):
            splits[row] = TRAIN
    return replace(texts, splits=splits)


def _draw(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}\x1f{key}".encode("utf-8", "surrogatepass")).digest()


def choose_domains(texts: LabelledTexts, settings: DataSettings) -> tuple[str, ...]:
    """The experts' names, in order: as configured, else every domain of the data, alphabetically.

    Raises:
        ConfigError: a domain has no texts or cannot be an expert's name, or fewer than two domains are left.
    """
    present = set(texts.domains)
    domains = settings.domains or tuple(sorted(present))
    if bad := [name for name in domains if not name.isidentifier()]:
        raise ConfigError(
            f"column `domain` holds {bad[0]!r}: an expert is named after its domain, in letters, digits and underscores"
        )
    if absent := [name for name in domains if name not in present]:
        raise ConfigError(f"setting `data.domains`: no text of {settings.train} has domain {absent[0]!r}")
    if len(domains) < 2:
        raise ConfigError(f"setting `data.domains`: a mixture needs two domains, there is {', '.join(domains)}")
    return domains


def _read_columns(path: str) -> dict[str, pa.ChunkedArray]:
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: no such file (settings `data.train`, `data.heldout`)")
    try:
        match file.suffix.lower():
            case ".csv":
                # Everything as text: a column of "0", "1", "2" and one of names are the same to the label map.
                names = pa.csv.open_csv(path, parse_options=pa.csv.ParseOptions(newlines_in_values=True)).schema.names
                table = pa.csv.read_csv(
                    path,
                    parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                    convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
                )
            case ".jsonl" | ".json" | ".ndjson":
                table = pa.json.read_json(path)
            case ".parquet":
                table = pa.parquet.read_table(path)
            case suffix:
                raise DataError(f"{path}: a file of labelled texts is .csv, .jsonl or .parquet, not {suffix!r}")
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not readable: {error}") from None
    return {name: table.column(name) for name in (*_REQUIRED, *_OPTIONAL) if name in table.column_names}


def _strings(column: pa.ChunkedArray) -> list[str]:
    text = column if pa.types.is_string(column.type) else pc.cast(column, pa.string())
    return [value if value is not None else "" for value in text.to_pylist()]


def _label_map(settings: DataSettings) -> dict[str, int]:
    extra = {name.strip().lower(): parse_label(label) for name, label in settings.label_map.items()}
    return {**DEFAULT_LABEL_MAP, **extra}


def _labels(raw: list[str], label_map: Mapping[str, int]) -> tuple[NDArray[np.int64], list[tuple[int, str, str]]]:
    labels = np.zeros(len(raw), dtype=np.int64)
    problems = []
    for row, value in enumerate(raw):
        try:
            labels[row] = parse_label(value, label_map)
        except DataError:
            problems.append((row, "label", f"unknown label {value!r}"))
    return labels, problems


def _refusal(problems: list[tuple[int, str, str]], label_map: Mapping[str, int]) -> str:
    problems.sort()
    first, more = problems[:_SHOWN_PROBLEMS], len(problems) - _SHOWN_PROBLEMS
    shown = "; ".join(f"row {row + 1}, column `{column}`: {what}" for row, column, what in first)
    rest = f"; and {more} more" if more > 0 else ""
    bad_label = any(column == "label" for _, column, _ in problems)
    known = f". Known labels: {', '.join(sorted(label_map))} (setting `data.label_map` adds names)" if bad_label else ""
    return f"{len(problems)} bad values. {shown}{rest}{known}"


def _row_problems(columns: dict[str, list[str]]) -> list[tuple[int, str, str]]:
    problems = []
    first_row: dict[str, int] = {}
    for row, name in enumerate(columns["id"]):
        if not name.strip():
            problems.append((row, "id", "empty"))
        elif first_row.setdefault(name, row) != row:
            problems.append((row, "id", f"{name!r} is also the id of row {first_row[name] + 1}"))
    problems += [(row, "text", "empty") for row, text in enumerate(columns["text"]) if not text.strip()]
    problems += [(row, "domain", "empty") for row, name in enumerate(columns["domain"]) if not name.strip()]
    known = {"", *SPLITS, "test"}
    problems += [
        (row, "split", f"unknown split {name!r}; known: {', '.join(SPLITS)}")
        for row, name in enumerate(columns["split"])
        if name not in known
    ]
    return problems


def _label_space(sources: list[str], spaces: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
    mask = np.ones((len(sources), len(LABELS)), dtype=bool)
    for source, labels in spaces.items():
        allowed = {parse_label(label) for label in labels}
        mask[[name == source for name in sources]] = [index in allowed for index in range(len(LABELS))]
    return mask
