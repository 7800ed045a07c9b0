"""The README's section 'Your own data', run as it is printed, with a shorter training and paths of its own."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from streaming.local_broker import free_ports

ROOT = Path(__file__).parents[2]
QUICK = """\
base: {tiny: {layers: 1}, optim: {epochs: 1}}
expert: {optim: {epochs: 1}}
joint: {warmup: {max_steps: 20, epochs: 1}, optim: {epochs: 1}}
"""

pytestmark = [pytest.mark.cluster, pytest.mark.broker, pytest.mark.timeout(400)]


def commands() -> list[str]:
    section = (ROOT / "README.md").read_text().partition("## Your own data")[2]
    block = re.search(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None
    return block.group(1).strip().splitlines()


def run(command: str, env: dict[str, str]) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_five_commands_from_csv_to_duckdb(kafka: str, tmp_path: Path) -> None:
    setting, train, deploy, replay, stream, read = commands()
    assert setting.startswith("DATA=")
    data, posts, quick = tmp_path / "mine.csv", tmp_path / "posts.jsonl", tmp_path / "quick.yaml"
    with (ROOT / "examples" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::6]
    with data.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "label", "domain"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    posts.write_bytes(b"".join((ROOT / "examples" / "posts.jsonl").read_bytes().splitlines(keepends=True)[:300]))
    quick.write_text(QUICK)
    port = free_ports(1)[0]
    env = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "DATA": str(data),
        "POSTS": str(posts),
        "OUT": str(tmp_path / "out"),
    }

    def here(command: str) -> str:
        command = command.replace(".venv/bin/python", sys.executable).replace("ray_jobs/configs/tiny.yaml", str(quick))
        return command.replace("posts.news,posts.forum", "mine.news,mine.forum").replace("8000", str(port))

    run(here(train), env)
    assert deploy.endswith("&")
    server = subprocess.Popen(
        ["bash", "-c", "exec " + here(deploy).removesuffix("&") + "--address local"], cwd=ROOT, env=env
    )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/healthz", server)
        run(here(replay) + " --topic mine.{domain} --default_topic mine.news", env)
        run(here(stream) + f" --scoring.url http://127.0.0.1:{port} --roll.max_age_s 2", env)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
    printed = run(here(read), env)
    assert "positive" in printed
    assert "news" in printed
    assert "forum" in printed
    assert '"ok": true' in run(
        f"{sys.executable} -m streaming audit --storage $OUT/stream --topics mine.news,mine.forum "
        "--require_all_read true --json true",
        env,
    )


def wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise AssertionError(f"nothing answers at {url}")
