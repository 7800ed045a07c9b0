"""The application on real Ray Serve, with a real (small, untrained) bundle."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import yaml
from small_bundle import EXPERTS, TEXTS, make_small_bundle

from sentiment.bundle import Bundle
from sentiment.errors import ConfigError, ScorerRejected, SetupError
from sentiment.model.predict import MixturePredictor
from sentiment.records import Scores
from serve.app import build, expert_deployment_name
from serve.client import HandleScorer
from serve.deploy import DeploySettings, connect, deploy, disconnect, http_url
from streaming.scorer import HttpScorer

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_small_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> Scores:
    return MixturePredictor(bundle).score(TEXTS)


@pytest.fixture(scope="module")
def settings(bundle: Bundle) -> DeploySettings:
    return DeploySettings(bundle=str(bundle.path), port=free_port())


@pytest.fixture(scope="module")
def handle(settings: DeploySettings) -> Iterator[Any]:
    assert connect("local"), "the tests want a cluster of their own"
    try:
        yield deploy(settings)
    finally:
        disconnect()


def assert_same(scores: Scores, expected: Scores) -> None:
    np.testing.assert_allclose(scores.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(scores.gate, expected.gate, atol=1e-5)
    np.testing.assert_array_equal(scores.experts_run, expected.experts_run)
    assert scores.bundle_id == expected.bundle_id


def test_the_handle_scores_as_the_predictor(handle: Any, expected: Scores) -> None:
    assert_same(handle.score.remote(TEXTS).result(timeout_s=60), expected)


def test_http_scores_as_the_predictor(handle: Any, settings: DeploySettings, expected: Scores) -> None:
    scorer = HttpScorer(http_url(settings))
    try:
        assert_same(scorer.submit(TEXTS).result(timeout=60), expected)
    finally:
        scorer.close()
    one = httpx.post(f"{http_url(settings)}/v1/score", json={"texts": TEXTS[0]}).json()
    assert one["results"][0]["probabilities"]["positive"] == pytest.approx(expected.probabilities[0, 2], abs=1e-5)


def test_http_refuses_by_field_and_describes_itself(handle: Any, settings: DeploySettings, bundle: Bundle) -> None:
    with httpx.Client(base_url=http_url(settings)) as client:
        refused = client.post("/v1/score", json={"texts": ["up", " "]})
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, "texts[1]")
        assert client.get("/v1/model").json()["bundle_id"] == bundle.manifest.bundle_id
        assert client.get("/healthz").json()["status"] == "ok"
        assert "/v1/score" in client.get("/openapi.json").json()["paths"]
        assert client.get("/docs").status_code == 200


def test_a_fault_of_the_rows_is_rejected_and_the_scorer_lives_on(handle: Any, expected: Scores) -> None:
    scorer = HandleScorer(handle)
    not_text: Any = ["fine", b"bytes are no text"]
    with pytest.raises(ScorerRejected):
        scorer.submit(not_text).result(timeout=60)
    assert_same(scorer.submit(TEXTS).result(timeout=60), expected)
    scorer.close()


def test_the_scorer_works_in_an_actor(handle: Any, expected: Scores) -> None:
    @ray.remote(num_cpus=0.1)
    class Worker:
        def __init__(self, target: Any) -> None:
            self.scorer = HandleScorer(target)

        def work(self) -> Scores:
            return self.scorer.submit(TEXTS).result(timeout=60)

    worker: Any = Worker
    actor = worker.remote(handle)
    assert_same(ray.get(actor.work.remote(), timeout=90), expected)
    ray.kill(actor)


def kill_replica(deployment: str) -> None:
    """SIGKILL one replica's process."""
    names = ray.util.list_named_actors(all_namespaces=True)
    (name,) = [found["name"] for found in names if f"#{deployment}#" in found["name"]]
    actor: Any = ray.get_actor(name, namespace="serve")
    os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=30), signal.SIGKILL)


@pytest.mark.parametrize("victim", ["expert", "router"])
def test_a_replica_killed_under_load_costs_no_row(handle: Any, bundle: Bundle, expected: Scores, victim: str) -> None:
    scorer = HandleScorer(handle, deadline_s=120.0)
    deployment = "RouterStage" if victim == "router" else expert_deployment_name(EXPERTS[0], bundle.manifest.bundle_id)
    futures: list[Future[Scores]] = []
    for step in range(40):
        futures.append(scorer.submit(TEXTS * 20))
        if step == 10:
            kill_replica(deployment)
        time.sleep(0.05)
    for future in futures:
        scores = future.result(timeout=150)
        assert len(scores) == len(TEXTS) * 20
        np.testing.assert_allclose(scores.probabilities[: len(TEXTS)], expected.probabilities, atol=1e-5)
    scorer.close()


def test_what_does_not_fit_is_named_before_anything_starts(handle: Any, settings: DeploySettings) -> None:
    with pytest.raises(SetupError, match=r"does not fit: .*expert `forum` \(1 x 50 CPUs\)"):
        build({"bundle": settings.bundle, "expert_num_cpus": "50"})
    with pytest.raises(ConfigError, match="did you mean `expert_num_cpus`"):
        build({"bundle": settings.bundle, "expert_num_cpu": "1"})


def wait_until_it_scores(url: str, process: subprocess.Popen[str], timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended with {process.returncode}"
        try:
            if httpx.post(f"{url}/v1/score", json={"texts": TEXTS}, timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    pytest.fail(f"{url} does not score after {timeout_s:.0f} s")


def processes_with(word: str) -> list[str]:
    """Command lines of the processes whose environment holds `word`: children inherit it, Ray's too."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (directory / "environ").read_bytes():
                found.append((directory / "cmdline").read_text().replace("\0", " ")[:80])
        except OSError:
            continue
    return found


@pytest.mark.parametrize("way", ["serve run app.yaml", "ray_jobs.deploy"])
def test_a_foreground_command_serves_and_leaves_no_process(way: str, bundle: Bundle, tmp_path: Path) -> None:
    port, mark = free_port(), f"FINSA_TEST_MARK={os.getpid()}-{re.sub('[^a-z]', '', way)}"
    if way == "ray_jobs.deploy":
        arguments = ["-m", "ray_jobs.deploy", "--bundle", str(bundle.path), "--port", str(port), "--address", "local"]
        end = signal.SIGTERM
    else:
        config = yaml.safe_load((ROOT / "serve" / "app.yaml").read_text())
        config["http_options"]["port"] = port
        config["applications"][0]["args"]["bundle"] = str(bundle.path)
        (tmp_path / "app.yaml").write_text(yaml.safe_dump(config))
        arguments = ["-m", "ray.serve.scripts", "run", "--address", "local", str(tmp_path / "app.yaml")]
        end = signal.SIGINT
    environment = os.environ | dict([mark.split("=")])
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log, text=True
        )
        try:
            wait_until_it_scores(f"http://127.0.0.1:{port}", process)
            process.send_signal(end)
            process.wait(timeout=90)
        finally:
            process.kill()
            process.wait()
    deadline = time.monotonic() + 30
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
