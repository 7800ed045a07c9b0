"""The three labels, in the one order every array of the project uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sentiment.errors import DataError

LABELS: Final = ("negative", "neutral", "positive")
NEGATIVE: Final = 0
NEUTRAL: Final = 1
POSITIVE: Final = 2

# What files call the labels. `bearish`/`bullish` and 利空/利好 are StockTwits' and FinNF's words for the same three.
DEFAULT_LABEL_MAP: Final[Mapping[str, int]] = MappingProxyType(
    {
        **{name: index for index, name in enumerate(LABELS)},
        **{str(index): index for index in range(len(LABELS))},
        "bearish": NEGATIVE,
        "bullish": POSITIVE,
        "利空": NEGATIVE,
        "中性": NEUTRAL,
        "利好": POSITIVE,
    }
)


def parse_label(raw: object, label_map: Mapping[str, int] = DEFAULT_LABEL_MAP) -> int:
    """The class index of a label as written in a file (case and surrounding space do not matter).

    Raises:
        DataError: the label is not in `label_map`; it is never guessed (unknown is not neutral).
    """
    key = str(raw).strip().lower()
    try:
        return label_map[key]
    except KeyError:
        known = ", ".join(sorted(label_map))
        raise DataError(f"unknown label {raw!r}; known: {known}") from None
