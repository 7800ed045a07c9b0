"""The floor that a model has to beat: TF-IDF and logistic regression, trained on the same rows.

Chinese texts: character 1-3-grams; others: word 1-2-grams beside character 3-5-grams; logistic regression with C = 4.
One model per language over all domains, which on our samples is stronger than one per language and domain.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from training.data import LabelledTexts

_C: Final = 4.0


def tfidf_predictions(train: LabelledTexts, heldout: LabelledTexts) -> NDArray[np.int64]:
    """`[N]` predicted labels of the held-out texts; where a language has no training text, the majority."""
    majority = int(np.bincount(train.labels).argmax())
    predicted = np.full(len(heldout), majority, dtype=np.int64)
    for lang in sorted(set(heldout.langs)):
        own, asked = _rows(train, lang), _rows(heldout, lang)
        labels = train.labels[own]
        if len(np.unique(labels)) > 1:
            model = _pipeline(lang).fit([train.texts[row] for row in own], labels)
            predicted[asked] = model.predict([heldout.texts[row] for row in asked])
        elif len(labels):
            predicted[asked] = labels[0]
    return predicted


def _rows(texts: LabelledTexts, lang: str) -> list[int]:
    return [row for row, own in enumerate(texts.langs) if own == lang]


def _pipeline(lang: str) -> Pipeline:
    if lang == "zh":
        features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
    else:
        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True),
        )
    return make_pipeline(features, LogisticRegression(C=_C, max_iter=1000))
