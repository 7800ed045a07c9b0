"""Texts to EncodedTexts: a fast tokenizer plus hashed n-grams. Training and serving use this one class. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass
from tokenizers import Tokenizer

from sentiment.batching import EncodedTexts, offsets_from_lengths
from sentiment.cli import STRICT
from sentiment.errors import ConfigError
from sentiment.ngrams import NgramSettings, hashed_ngrams

TOKENIZER_FILE: Final = "tokenizer.json"
SETTINGS_FILE: Final = "encoder.json"
TEXT_SLOT: Final = "{text}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderSettings:
    """What a text looks like to the model; the same in training and serving."""

    max_length: PositiveInt = 128
    """longest text, prompt included; the text is cut, never the prompt [tokens]"""
    max_chars: PositiveInt = 2_048
    """characters of a text that are looked at all [characters]"""
    prompt: str = TEXT_SLOT
    """wraps every text at the mark {text}; it never names the domain [template]"""
    pad_id: NonNegativeInt = 0
    """fills short rows; always masked, so its value changes no score [token id]"""
    ngrams: NgramSettings = NgramSettings()
    """hashed character n-grams, for the router and for a base with an n-gram bag"""


class TextEncoder:
    """Tokenises and hashes texts. Immutable after construction, so threads may share it.

    Args:
        tokenizer: a `tokenizers.Tokenizer` (of a transformers tokenizer: its `backend_tokenizer`); it is copied.
        settings: lengths, prompt and n-grams.

    Raises:
        ConfigError: the prompt has no `{text}`, or leaves no room for the text.
    """

    def __init__(self, tokenizer: Tokenizer, settings: EncoderSettings) -> None:
        if settings.prompt.count(TEXT_SLOT) != 1:
            raise ConfigError(f"setting `prompt` must hold {TEXT_SLOT} once, got {settings.prompt!r}")
        self.settings = settings
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        before, after = settings.prompt.split(TEXT_SLOT)
        self._before = self._tokenizer.encode(before, add_special_tokens=False).ids if before else []
        self._after = self._tokenizer.encode(after, add_special_tokens=False).ids if after else []
        room = settings.max_length - len(self._before) - len(self._after)
        special = self._tokenizer.num_special_tokens_to_add(False)
        if room <= special:
            raise ConfigError(f"setting `max_length` = {settings.max_length} leaves no room for the text")
        self._tokenizer.enable_truncation(room)
        # A post that writes `[SEP]` or `<|endoftext|>` says just that; only the prompt above may hold control tokens.
        self._tokenizer.encode_special_tokens = True

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode texts, in order. A text without any token becomes one pad token, so that every text has a length."""
        cut = [text[: self.settings.max_chars] for text in texts]
        # Lone surrogates are legal in a Python str but not in UTF-8, which the tokenizer wants.
        safe = [text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8") for text in cut]
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(safe)]
        if self._before or self._after:
            rows = [[*self._before, *row, *self._after] for row in rows]
        rows = [row or [self.settings.pad_id] for row in rows]
        token_offsets = offsets_from_lengths([len(row) for row in rows])
        flat = (token for row in rows for token in row)
        token_ids = np.fromiter(flat, np.int32, count=int(token_offsets[-1]))
        ngram_ids, ngram_offsets = hashed_ngrams(cut, self.settings.ngrams)
        return EncodedTexts(token_ids, token_offsets, ngram_ids, ngram_offsets)

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` and `encoder.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / TOKENIZER_FILE).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        settings = json.dumps(asdict(self.settings), indent=2, ensure_ascii=False)
        (directory / SETTINGS_FILE).write_text(settings + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> TextEncoder:
        """Read what `save` wrote."""
        settings = TypeAdapter(EncoderSettings).validate_json((directory / SETTINGS_FILE).read_bytes())
        return cls(Tokenizer.from_file(str(directory / TOKENIZER_FILE)), settings)
