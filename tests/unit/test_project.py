"""The project's own house rules: what the checkout holds, what the lock names, which commands exist."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ray_jobs.__main__ import jobs
from streaming.local_broker import JAR_LIST

ROOT = Path(__file__).parents[2]
PACKAGES = ["ray_jobs", "sentiment", "serve", "streaming", "training"]
YAML_FILES = {"cluster.yaml", "compose.yaml", "serve/app.yaml", "ray_jobs/configs/tiny.yaml"}


def tracked(pattern: str) -> set[str]:
    listing = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listing.stdout.splitlines())


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_ours(package: str) -> None:
    """Other projects own some of these import names: a foreign one in site-packages must not win."""
    found = importlib.import_module(package).__file__
    assert found is not None
    assert Path(found).is_relative_to(ROOT)


def test_every_yaml_file_is_known_and_loads() -> None:
    assert {name for name in tracked("*.yaml") | tracked("*.yml")} == YAML_FILES
    for name in YAML_FILES:
        assert isinstance(yaml.safe_load((ROOT / name).read_text()), dict), name


@pytest.mark.parametrize("lock", ["all", "cluster", "consumer", "uv"])
def test_lock_is_hashed_and_names_no_registry(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    pins = re.findall(r"^[a-z0-9][^\s=]*==\S+", text, flags=re.MULTILINE)
    assert pins
    assert text.count("--hash=sha256:") >= len(pins)
    assert not re.search(r"https?:|--index|--find-links", text)


def test_the_consumer_needs_neither_torch_nor_ray() -> None:
    text = (ROOT / "requirements" / "consumer.txt").read_text()
    assert "kafka-python==" in text
    assert not re.search(r"^(torch|ray|transformers|peft)\b", text, flags=re.MULTILINE)


def test_jar_list_is_whole() -> None:
    lines = [line.split() for line in JAR_LIST.read_text().splitlines()]
    assert len(lines) == 46
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) and name.endswith(".jar") for digest, name in lines)


def test_every_job_is_listed() -> None:
    expected = {
        "train",
        "train_base",
        "train_expert",
        "train_joint",
        "export",
        "evaluate",
        "deploy",
        "stream",
        "score",
        "demo",
    }
    assert {command.removeprefix("python -m ray_jobs.") for command in jobs()} == expected
    assert all(summary for summary in jobs().values())


def test_a_job_called_without_its_dot_is_explained() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs", "train"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "python -m ray_jobs.train" in done.stderr


def test_job_modules_only_parse_wire_and_call() -> None:
    modules = [command.removeprefix("python -m ray_jobs.") for command in jobs()]
    lines = {name: len((ROOT / "ray_jobs" / f"{name}.py").read_text().splitlines()) for name in modules}
    assert {name: count for name, count in lines.items() if count > 80} == {}
