"""Classification scores by their real names, from labels and predictions; numpy only, equal to scikit-learn's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sentiment.labels import LABELS

Ints = NDArray[np.int64]


def confusion(labels: Ints, predicted: Ints) -> Ints:
    """`[C, C]` counts; rows are true labels, columns predictions, both in the order of `LABELS`."""
    matrix = np.zeros((len(LABELS), len(LABELS)), dtype=np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def classification_scores(labels: Ints, predicted: Ints) -> dict[str, float]:
    """Accuracy, macro precision, recall and F1 (over the classes that occur), and F1 weighted by class frequency.

    Micro-F1 of single-label classification is accuracy, so it is not repeated.

    Returns:
        The scores and `rows`; without rows only `rows`.
    """
    matrix = confusion(labels, predicted)
    rows = int(matrix.sum())
    if not rows:
        return {"rows": 0}
    hits = np.diag(matrix).astype(np.float64)
    true, chosen = matrix.sum(1), matrix.sum(0)
    precision = hits / np.maximum(chosen, 1)
    recall = hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + chosen, 1)
    occurs = (true + chosen) > 0
    return {
        "rows": rows,
        "accuracy": float(hits.sum() / rows),
        "macro_precision": float(precision[occurs].mean()),
        "macro_recall": float(recall[occurs].mean()),
        "macro_f1": float(f1[occurs].mean()),
        "weighted_f1": float((f1 * true).sum() / rows),
    }


def mean_macro_f1(labels: Ints, predicted: Ints, domains: Ints) -> float:
    """The mean of the domains' macro-F1: what stages are selected by. Pooled scores are those of the largest domain."""
    return float(
        np.mean([classification_scores(labels[own], predicted[own])["macro_f1"] for own in _each(domains)] or [0.0])
    )


def _each(domains: Ints) -> list[NDArray[np.bool_]]:
    return [domains == domain for domain in np.unique(domains)]


def majority_scores(train_labels: Ints, labels: Ints) -> dict[str, float]:
    """Scores of always answering the most frequent class of the training texts."""
    majority = int(np.bincount(train_labels, minlength=len(LABELS)).argmax())
    return classification_scores(labels, np.full_like(labels, majority))
