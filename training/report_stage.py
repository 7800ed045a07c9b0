"""Last stage: the exported bundle's scores on the held-out texts, beside the floors trained on the same rows."""

from __future__ import annotations

import json

from training.data import TRAIN
from training.evaluate import evaluate_bundle
from training.stages import REPORT_FILE, bundle_path
from training.work import Work


def run(work: Work) -> dict[str, float]:
    """Evaluate; the artefact is `report.json`.

    Returns:
        Accuracy and macro-F1 of each domain.
    """
    if not work.world.first or work.heldout is None:
        return {}
    report = evaluate_bundle(bundle_path(work.storage, work.inputs["export"]), work.heldout, work.texts.where(TRAIN))
    (work.output / REPORT_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {
        f"{domain}_{metric}": cell["mixture"][metric]
        for domain, cell in report["domains"].items()
        for metric in ("accuracy", "macro_f1")
    }
