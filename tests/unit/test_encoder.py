from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sentiment.encoder import EncoderSettings, TextEncoder
from sentiment.errors import ConfigError
from sentiment.ngrams import NgramSettings, hashed_ngrams
from sentiment.tokenizer import SPECIAL_TOKENS, train_tokenizer

ROOT = Path(__file__).parents[2]
TEXTS = [
    "profit up 12% and rising",
    "公司业绩大幅增长，利好",
    "to the moon 🚀 $TSLA",
    "bearish on banks, selling all",
] * 4


def make(**settings: object) -> TextEncoder:
    return TextEncoder(train_tokenizer(TEXTS, 300), EncoderSettings(**settings))


def test_training_gives_the_same_tokenizer_in_every_process() -> None:
    code = f"from sentiment.tokenizer import *; print(train_tokenizer({TEXTS!r}, 300).to_str(), end='')"
    ours = hashlib.sha256(train_tokenizer(TEXTS, 300).to_str().encode()).hexdigest()
    for seed in ("1", "2"):  # the library's own trainer differs from process to process
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONHASHSEED": seed}, cwd=ROOT
        )
        assert hashlib.sha256(answer.stdout).hexdigest() == ours


def test_tokenizer_splits_chinese_keeps_words_and_stays_within_its_size() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer.get_vocab_size() <= 300
    assert [tokenizer.token_to_id(name) for name in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert tokenizer.encode("利好 PROFIT").tokens == ["[CLS]", "利", "好", "profit", "[SEP]"]


def test_encoding_is_per_text_whatever_stands_beside_it() -> None:
    encoder = make()
    together = encoder.encode(TEXTS)
    for index, text in enumerate(TEXTS):
        alone, part = encoder.encode([text]), together.take([index])
        assert alone.token_ids.tolist() == part.token_ids.tolist()
        assert alone.ngram_ids.tolist() == part.ngram_ids.tolist()


def test_texts_are_cut_at_max_length_but_the_prompt_is_not() -> None:
    bare = make(max_length=8).encode(["up " * 50])
    assert bare.lengths.tolist() == [8]
    encoder = make(max_length=12, prompt="banks: {text} profit up")
    rows = encoder.encode(["moon " * 50, "moon"])
    cue = encoder.encode(["x"]).token_ids[-2:].tolist()
    assert rows.lengths[0] == 12
    assert rows.lengths[1] < 12
    for index in range(2):
        assert rows.take([index]).token_ids[-2:].tolist() == cue
    assert cue == [train_tokenizer(TEXTS, 300).token_to_id(word) for word in ("profit", "up")]


@pytest.mark.parametrize("settings", [{"prompt": "no slot"}, {"prompt": "{text}{text}"}, {"max_length": 2}])
def test_impossible_settings_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        make(**settings)


def test_control_tokens_in_a_post_are_plain_text() -> None:
    encoder = make()
    ids = encoder.encode(["up [SEP] [CLS] [PAD] up"]).token_ids.tolist()
    assert (ids[0], ids[-1]) == (2, 3)
    assert not {0, 2, 3} & set(ids[1:-1])


def test_odd_texts_still_have_a_length() -> None:
    encoder = make(max_chars=100, ngrams=NgramSettings(sizes=(2, 3, 4)))
    rows = encoder.encode(["", "   ", "\x00\x01", "\ud800 lone", "x" * 100_000])
    assert rows.lengths.min() >= 1
    assert rows.lengths.max() <= encoder.settings.max_length
    assert np.diff(rows.ngram_offsets).max() < 3 * 102 + 1  # the long text was cut first
    assert len(encoder.encode([])) == 0


def test_saved_and_loaded_encoders_agree_and_threads_may_share_one(tmp_path: Path) -> None:
    encoder = make(max_length=16, prompt="banks {text}", ngrams=NgramSettings(sizes=(2, 5), buckets=99))
    encoder.save(tmp_path)
    again = TextEncoder.load(tmp_path)
    assert again.settings == encoder.settings
    expected = encoder.encode(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: again.encode(TEXTS), range(16)))
    for answer in answers:
        assert answer.token_ids.tolist() == expected.token_ids.tolist()
        assert answer.ngram_ids.tolist() == expected.ngram_ids.tolist()
    assert expected.ngram_ids.tolist() == hashed_ngrams(TEXTS, encoder.settings.ngrams)[0].tolist()
