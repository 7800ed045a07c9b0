"""Trains the tiny base's tokenizer: lower-casing bilingual WordPiece, the same vocabulary on every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Ids 0..4."""
_INSIDE: Final = "##"
_MIN_COUNT: Final = 2


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """BERT's scheme: every Chinese character is a word of its own, a text is framed as `[CLS] text [SEP]`.

    Args:
        texts: what to learn from; a character seen once becomes [UNK].
        vocab_size: at most this many tokens; of the characters, the rarer ones give way first.
    """
    starts, insides = _alphabet(texts, limit=max(vocab_size // 2, 256))
    # The trainer numbers `##x` in the order of a hash map that differs from process to process, and breaks ties between
    # merges by number. Given as special tokens, they get their numbers from us; the real tokenizer is built afterwards.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_COUNT,
        initial_alphabet=starts,
        limit_alphabet=len(starts),
        special_tokens=[*SPECIAL_TOKENS, *(_INSIDE + character for character in insides)],
        show_progress=False,
    )
    draft = _empty_tokenizer({name: index for index, name in enumerate(SPECIAL_TOKENS)})
    draft.train_from_iterator(texts, trainer)
    tokenizer = _empty_tokenizer(draft.get_vocab())
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    frame = [(name, SPECIAL_TOKENS.index(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return tokenizer


def _empty_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106  # a token of text, no password
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.BertNormalizer(handle_chinese_chars=True, lowercase=True)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _alphabet(texts: Sequence[str], limit: int) -> tuple[list[str], list[str]]:
    """The most frequent characters, sorted, and those of them that also occur inside words."""
    blank = _empty_tokenizer({})
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        for word, _ in blank.pre_tokenizer.pre_tokenize_str(blank.normalizer.normalize_str(text)):
            counts.update(word)
            inside.update(word[1:])
    common = sorted((-count, character) for character, count in counts.items() if count >= _MIN_COUNT)[:limit]
    starts = sorted(character for _, character in common)
    return starts, [character for character in starts if character in inside]
