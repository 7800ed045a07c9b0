from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from random_mixture import random_encoder
from safetensors.torch import load_file, save_file
from small_bundle import EXPERTS, TEXTS, make_small_bundle
from transformers import AutoModel

from sentiment.bundle import Bundle, BundleParts, load_bundle, save_bundle
from sentiment.errors import BundleError
from sentiment.manifest import MANIFEST_FILE, content_id, file_hash, read_manifest
from sentiment.model.adapter import LoraSettings, attach_lora, trained_adapter
from sentiment.model.backbone import Backbone, pool
from sentiment.model.combine import Calibration
from sentiment.model.expert import Head, read_head
from sentiment.model.inputs import pad_batch
from sentiment.model.predict import MixturePredictor
from sentiment.model.router import Router, RouterSettings


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_small_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture
def copy(original: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.path, tmp_path / "copy"))


def rewrite_manifest(root: Path, **changes: object) -> None:
    """Change the manifest and make its id fit again, as a newer or faulty exporter would."""
    raw = json.loads((root / MANIFEST_FILE).read_text())
    raw |= changes
    raw["bundle_id"] = content_id(raw)
    (root / MANIFEST_FILE).write_text(json.dumps(raw))


def test_a_copy_of_a_bundle_gives_the_same_scores(original: Bundle, copy: Path) -> None:
    again = load_bundle(copy)
    assert again.manifest == original.manifest
    first, second = (MixturePredictor(bundle).score(TEXTS) for bundle in (original, again))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert first.bundle_id == original.manifest.bundle_id


def test_one_changed_byte_in_any_file_is_named(original: Bundle, copy: Path) -> None:
    assert len(original.manifest.files) == 2 + 4 + 1 + 3 * len(EXPERTS)
    for name in original.manifest.files:
        path = copy / name
        intact = path.read_bytes()
        path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        with pytest.raises(BundleError, match=name):
            load_bundle(copy)
        path.unlink()
        with pytest.raises(BundleError, match=f"{name} is missing"):
            load_bundle(copy)
        path.write_bytes(intact)
    load_bundle(copy)


def test_an_edited_manifest_is_refused(copy: Path) -> None:
    text = (copy / MANIFEST_FILE).read_text()
    (copy / MANIFEST_FILE).write_text(text.replace('"temperature": 1.3', '"temperature": 1.4'))
    with pytest.raises(BundleError, match="changed after export"):
        load_bundle(copy)
    (copy / MANIFEST_FILE).write_text(text[: len(text) // 2])
    with pytest.raises(BundleError, match=MANIFEST_FILE):
        load_bundle(copy)
    (copy / MANIFEST_FILE).write_text(text)
    load_bundle(copy)


def test_other_formats_labels_and_fields_are_refused_with_the_remedy(copy: Path) -> None:
    rewrite_manifest(copy, format_version=2, some_new_field=1)
    with pytest.raises(BundleError, match=r"format 2.*update this program"):
        load_bundle(copy)
    rewrite_manifest(copy, format_version=1)
    with pytest.raises(BundleError, match="some_new_field"):
        load_bundle(copy)


def test_other_labels_are_refused(copy: Path) -> None:
    rewrite_manifest(copy, labels=["positive", "neutral", "negative"])
    with pytest.raises(BundleError, match="labels"):
        load_bundle(copy)


def test_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ray_jobs\.train"):
        load_bundle(tmp_path / "nothing")


def test_an_expert_equal_to_its_base_is_refused_on_load(copy: Path) -> None:
    name = f"experts/{EXPERTS[1]}/adapter_model.safetensors"
    state = load_file(copy / name)
    save_file({key: value * 0 if "lora_B" in key else value for key, value in state.items()}, copy / name)
    rewrite_manifest(
        copy, files=json.loads((copy / MANIFEST_FILE).read_text())["files"] | {name: file_hash(copy / name)}
    )
    with pytest.raises(BundleError, match=f"{EXPERTS[1]}.*equals its base"):
        load_bundle(copy)


def test_the_id_covers_content_and_a_bundle_is_never_overwritten(original: Bundle, tmp_path: Path) -> None:
    again = make_small_bundle(tmp_path / "a")
    assert again.manifest.bundle_id == original.manifest.bundle_id, "same content, same id"
    make_small_bundle(tmp_path / "a")  # the very same bundle: nothing to do
    with pytest.raises(BundleError, match="never changes"):
        make_small_bundle(tmp_path / "a", seed=1)
    assert read_manifest(tmp_path / "a") == again.manifest
    assert make_small_bundle(tmp_path / "b", seed=1).manifest.bundle_id != again.manifest.bundle_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"], "no staging folder is left"


def test_there_is_no_pickle_in_a_bundle_and_any_user_may_read_it(original: Bundle) -> None:
    files = [path for path in original.path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)


def test_a_stranger_with_transformers_and_peft_gets_the_same_logits(original: Bundle) -> None:
    encoded = original.encoder().encode(TEXTS)
    batch = pad_batch(encoded)
    bag = original.backbone().ngrams
    assert bag is not None
    for name in EXPERTS:
        base: Any = AutoModel.from_pretrained(original.path / "base", add_pooling_layer=False)
        model: Any = PeftModel.from_pretrained(base, original.path / "experts" / name).eval()
        with torch.inference_mode():
            hidden = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
            pooled = pool(hidden, batch.attention_mask, "mean")
            pooled = torch.cat([pooled, bag(batch.ngram_ids, batch.ngram_offsets)], dim=1)
            logits = read_head(original.path / "experts" / name)(pooled).numpy()
        np.testing.assert_allclose(original.expert(name).logits(encoded), logits, atol=1e-5)


def test_predictor_answers_each_text_alike_alone_and_in_any_order(original: Bundle) -> None:
    predictor = MixturePredictor(original)
    whole = predictor.score(TEXTS)
    assert set(whole.experts_run.tolist()) == {1, 2}, "the small bundle is sure of some texts and unsure of others"
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = predictor.score([TEXTS[index] for index in order])
    np.testing.assert_allclose(shuffled.probabilities, whole.probabilities[order], atol=1e-5)
    for index, text in enumerate(TEXTS):
        alone = predictor.score([text])
        np.testing.assert_allclose(alone.probabilities[0], whole.probabilities[index], atol=1e-5)
        assert alone.experts_run[0] == whole.experts_run[index]
    np.testing.assert_allclose(whole.probabilities.sum(1), 1, atol=1e-5)
    assert len(predictor.score([])) == 0


def pretrained_parts(original: Bundle, base: Path) -> BundleParts:
    torch.manual_seed(0)
    encoder: Any = random_encoder("qwen2")
    encoder.resize_token_embeddings(original.encoder().vocab_size)
    encoder.save_pretrained(base)
    backbone = Backbone(encoder, "last")
    attach_lora(backbone, LoraSettings(rank=2))
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    adapter = trained_adapter(backbone)
    wrapped: Any = backbone.encoder
    bare = Backbone(wrapped.unload(), "last").eval()
    return BundleParts(
        backbone=bare,
        encoder=original.encoder(),
        router=Router(bare.token_embeddings(), 1, RouterSettings(hidden=8, ngram_buckets=64, ngram_dim=4)),
        experts={"news": (adapter, Head(bare.features))},
        calibration=Calibration.identity(["news"]),
        pretrained=(str(base), None),
    )


def test_a_pretrained_base_is_named_not_stored_and_checked_by_hash(original: Bundle, tmp_path: Path) -> None:
    bundle = save_bundle(tmp_path / "bundle", pretrained_parts(original, tmp_path / "base"))
    assert not (bundle.path / "base").exists()
    assert bundle.manifest.base.kind == "pretrained"
    assert not bundle.manifest.uses_ngrams
    assert len(MixturePredictor(bundle).score(TEXTS)) == len(TEXTS)
    weights = tmp_path / "base" / "model.safetensors"
    state = load_file(weights)
    state["norm.weight"] += 1e-3
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(BundleError, match="not the one"):
        bundle.expert("news")


def test_parts_that_do_not_fit_together_are_refused(original: Bundle, tmp_path: Path) -> None:
    parts = pretrained_parts(original, tmp_path / "base")
    fields = {name: getattr(parts, name) for name in parts.__dataclass_fields__}
    adapter, head = parts.experts["news"]
    still = type(adapter)({path: (a, b * 0) for path, (a, b) in adapter.factors.items()})
    for change, message in (
        ({"calibration": Calibration.identity(["forum"])}, "calibrated"),
        ({"experts": {"news": (still, head)}}, "equals its base"),
        ({"experts": {"../x": (adapter, head)}, "calibration": Calibration.identity(["../x"])}, "name"),
        ({"backbone": original.backbone()}, "n-gram bag"),
    ):
        with pytest.raises(BundleError, match=message):
            save_bundle(tmp_path / "bundle", BundleParts(**(fields | change)))
    assert not (tmp_path / "bundle").exists()


def test_an_unknown_expert_is_refused_by_name(original: Bundle) -> None:
    with pytest.raises(BundleError, match="news, forum"):
        original.expert("filings")
