"""Scores against scikit-learn, the floors, and a bundle's report cell by cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score
from small_bundle import make_small_bundle

from sentiment.errors import DataError
from sentiment.model.predict import MixturePredictor
from training.data import LabelledTexts
from training.evaluate import evaluate_bundle, lang_table, report_table
from training.floor import tfidf_predictions
from training.scores import classification_scores, confusion, majority_scores, mean_macro_f1

PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


def texts_of(rows: list[tuple[str, int, str, str]]) -> LabelledTexts:
    return LabelledTexts(
        ids=[f"t{i}" for i in range(len(rows))],
        texts=[row[0] for row in rows],
        labels=np.array([row[1] for row in rows]),
        domains=[row[2] for row in rows],
        langs=[row[3] for row in rows],
        sources=[""] * len(rows),
        splits=["train"] * len(rows),
        label_space=np.ones((len(rows), 3), dtype=bool),
        published=[""] * len(rows),
    )


@given(pairs=PAIRS)
def test_scores_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    scores = classification_scores(true, predicted)
    assert scores["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    for name, function in (
        ("macro_f1", f1_score),
        ("macro_precision", precision_score),
        ("macro_recall", recall_score),
    ):
        assert scores[name] == pytest.approx(function(true, predicted, average="macro", zero_division=0)), name
    assert scores["weighted_f1"] == pytest.approx(f1_score(true, predicted, average="weighted", zero_division=0))


def test_no_rows_give_no_scores_and_the_confusion_has_true_labels_in_rows() -> None:
    nothing = np.zeros(0, np.int64)
    assert classification_scores(nothing, nothing) == {"rows": 0}
    assert confusion(np.array([0, 0, 2]), np.array([1, 1, 2])).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_selection_weighs_domains_equally() -> None:
    labels = np.array([0, 1, 2] * 30 + [0, 1, 2])
    predicted = np.concatenate([labels[:90], [1, 2, 0]])
    domains = np.array([0] * 90 + [1] * 3)
    assert mean_macro_f1(labels, predicted, domains) == pytest.approx(0.5)
    assert classification_scores(labels, predicted)["macro_f1"] > 0.95


def test_majority_is_that_of_the_training_texts() -> None:
    scores = majority_scores(np.array([2, 2, 0]), np.array([0, 0, 2]))
    assert scores["accuracy"] == pytest.approx(1 / 3)


def test_tfidf_learns_each_language_and_answers_for_unseen_ones() -> None:
    rows = [
        (f"{word} report {n}", label, "news", "en") for n in range(20) for word, label in (("gain", 2), ("loss", 0))
    ]
    rows += [(f"{word}公告{n}", label, "news", "zh") for n in range(20) for word, label in (("盈利", 2), ("亏损", 0))]
    asked = texts_of([("a gain", 2, "news", "en"), ("亏损了", 0, "news", "zh"), ("perte", 1, "news", "fr")])
    assert tfidf_predictions(texts_of(rows), asked).tolist() == [2, 0, 0]


def test_a_report_equals_the_predictor_cell_by_cell(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    experts = bundle.manifest.experts
    words = ("profit up", "loss widens", "flat week", "利好消息", "亏损扩大")
    texts = texts_of([(f"{words[i % 5]} {i}", i % 3, experts[i % 2], "zh" if i % 5 > 2 else "en") for i in range(60)])
    report = evaluate_bundle(bundle.path, texts, texts)
    scores = MixturePredictor(bundle).score(texts.texts)
    predicted = scores.probabilities.argmax(1)
    for index, name in enumerate(experts):
        own = np.array([domain == name for domain in texts.domains])
        cell = report["domains"][name]
        assert cell["mixture"]["accuracy"] == pytest.approx(accuracy_score(texts.labels[own], predicted[own]))
        assert cell["router_accuracy"] == pytest.approx((scores.expert[own] == index).mean())
        assert cell["one_pass_share"] == pytest.approx((scores.experts_run[own] == 1).mean())
        assert sum(lang["mixture"]["rows"] for lang in cell["langs"].values()) == own.sum()
    assert report["rows_also_in_training"] == 60
    console = Console(width=120, record=True)
    console.print(report_table(report), lang_table(report))
    assert "TF-IDF + LR" in console.export_text()


def test_a_domain_without_an_expert_is_refused(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    with pytest.raises(DataError, match="tweets"):
        evaluate_bundle(bundle.path, texts_of([("hello", 1, "tweets", "en")]), None)
