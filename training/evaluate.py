"""Scores of a bundle on labelled texts, by the very path that serving runs, with floors beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from sentiment.bundle import load_bundle
from sentiment.errors import DataError
from sentiment.model.predict import MixturePredictor
from training.data import LabelledTexts, normalised
from training.scores import classification_scores, majority_scores

Report = dict[str, Any]
_ALL = "all"


def evaluate_bundle(bundle_path: Path | str, texts: LabelledTexts, train: LabelledTexts | None) -> Report:
    """Accuracy, macro and weighted F1 per domain and language, router accuracy, share of one-pass texts.

    Args:
        bundle_path: verified when opened.
        texts: labelled; impossible labels of a source are not masked here: serving does not know the source.
        train: the rows that the bundle was trained on, for the floors (majority class, TF-IDF + logistic regression);
            None leaves the floors out.

    Raises:
        DataError: a text's domain has no expert in the bundle.
    """
    bundle = load_bundle(bundle_path)
    experts = bundle.manifest.experts
    if unknown := sorted(set(texts.domains) - set(experts)):
        raise DataError(f"column `domain` holds {', '.join(unknown)}; the bundle's experts are {', '.join(experts)}")
    scores = MixturePredictor(bundle).score(texts.texts)
    predicted = {"mixture": scores.probabilities.argmax(1).astype(np.int64)}
    if train is not None:
        from training.floor import tfidf_predictions  # scikit-learn takes seconds to import

        predicted["tfidf"] = tfidf_predictions(train, texts)
    routed = scores.expert == texts.domain_index(experts)
    one_pass = scores.experts_run == 1
    cells = {_ALL: np.ones(len(texts), dtype=bool)}
    cells |= {name: np.array([domain == name for domain in texts.domains]) for name in experts}
    domains = {}
    for name, own in cells.items():
        if not own.any():
            continue
        cell: Report = {"mixture": classification_scores(texts.labels[own], predicted["mixture"][own])}
        if train is not None:
            same = train.labels if name == _ALL else _labels_of(train, name)
            cell["tfidf"] = classification_scores(texts.labels[own], predicted["tfidf"][own])
            cell["majority"] = majority_scores(same, texts.labels[own])
        cell["router_accuracy"] = float(routed[own].mean())
        cell["one_pass_share"] = float(one_pass[own].mean())
        cell["langs"] = _by_lang(texts, own, predicted)
        domains[name] = cell
    report: Report = {"bundle": str(bundle.path), "bundle_id": bundle.manifest.bundle_id, "rows": len(texts)}
    if train is not None:
        report["rows_also_in_training"] = _overlap(train, texts)
    return report | {"domains": domains}


def report_table(report: Report) -> Table:
    """The report as a table: one row per domain and model."""
    table = Table(title=f"held-out scores of bundle {report['bundle_id']} ({report['rows']} texts)")
    for column in ("domain", "model", "texts", "acc.", "macro-F1", "W-F1", "router", "one pass"):
        table.add_column(column, justify="left" if column in ("domain", "model") else "right")
    names = {"mixture": "mixture", "tfidf": "TF-IDF + LR", "majority": "majority"}
    for domain, cell in report["domains"].items():
        for key, name in names.items():
            if key not in cell:
                continue
            scores = cell[key]
            own = key == "mixture"
            table.add_row(
                domain if own else "",
                name,
                f"{scores['rows']}" if own else "",
                *(f"{scores[metric]:.3f}" for metric in ("accuracy", "macro_f1", "weighted_f1")),
                f"{cell['router_accuracy']:.3f}" if own else "",
                f"{cell['one_pass_share']:.3f}" if own else "",
            )
        table.add_section()
    return table


def lang_table(report: Report) -> Table:
    """Accuracy and macro-F1 per domain and language."""
    table = Table(title="by language: accuracy / macro-F1")
    for column in ("domain", "lang", "texts", "mixture", "TF-IDF + LR"):
        table.add_column(column, justify="left" if column in ("domain", "lang") else "right")
    for domain, cell in report["domains"].items():
        for lang, models in cell["langs"].items():
            shown = [
                f"{models[key]['accuracy']:.3f} / {models[key]['macro_f1']:.3f}" if key in models else "-"
                for key in ("mixture", "tfidf")
            ]
            table.add_row(domain, lang, str(models["mixture"]["rows"]), *shown)
    return table


def _labels_of(texts: LabelledTexts, domain: str) -> NDArray[np.int64]:
    return texts.labels[[name == domain for name in texts.domains]]


def _by_lang(texts: LabelledTexts, own: NDArray[np.bool_], predicted: dict[str, NDArray[np.int64]]) -> Report:
    langs = np.array(texts.langs)
    return {
        str(lang): {
            model: classification_scores(texts.labels[own & (langs == lang)], answers[own & (langs == lang)])
            for model, answers in predicted.items()
        }
        for lang in np.unique(langs[own])
    }


def _overlap(train: LabelledTexts, texts: LabelledTexts) -> int:
    seen = {normalised(text) for text in train.texts}
    return sum(normalised(text) in seen for text in texts.texts)
