"""Settings of the stream, and what importing it must not bring in."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sentiment.errors import ConfigError, SetupError
from streaming.__main__ import COMMANDS
from streaming.settings import KafkaSettings, StartSettings, StreamSettings


def test_topics_are_a_list_or_words_between_commas() -> None:
    assert StreamSettings(topics="a, b,a", storage="/s").topic_names() == ("a", "b")
    assert StreamSettings(topics=("a", "b"), storage="/s").topic_names() == ("a", "b")
    with pytest.raises(ConfigError, match="topics"):
        StreamSettings(topics=" ,", storage="/s").topic_names()


def test_the_brokers_come_from_the_setting_else_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:1, two:2")
    assert KafkaSettings().servers() == ["one:1", "two:2"]
    assert KafkaSettings(bootstrap_servers="three:3").servers() == ["three:3"]
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")
    with pytest.raises(SetupError, match="make kafka"):
        KafkaSettings().servers()


@pytest.mark.parametrize("bad", ["", "yesterday", "2026-01-01T00:00:00"])
def test_a_start_without_a_clear_time_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match=r"start\.timestamp"):
        StartSettings(policy="timestamp", timestamp=bad).timestamp_ms()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_without_torch_and_ray(command: str) -> None:
    code = (
        "import sys, importlib\n"
        f"module = importlib.import_module({COMMANDS[command][0]!r})\n"
        "heavy = {'torch', 'ray', 'transformers', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "module.main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"example: python -m streaming {command}" in " ".join(done.stdout.split())
