"""Arguments of `serve run`, and what fits into a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sentiment.errors import ConfigError
from serve.capacity import Demand, demands_of, explain_shortage
from serve.settings import ServeSettings, bundle_path, read_serve_settings

APP_YAML = Path(__file__).parents[2] / "serve" / "app.yaml"


def test_strings_of_the_command_line_are_converted() -> None:
    settings = read_serve_settings({"bundle": "/b", "expert_replicas": "2", "expert_num_cpus": "0.5"})
    assert (settings.expert_replicas, settings.expert_num_cpus) == (2, 0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"bundel": "/b"}, r"`bundel`; did you mean `bundle`\?"),
        ({"max_pading_tokens": 1}, r"did you mean `max_padded_tokens`\?"),
        ({"qqq": 1}, "valid ones: bundle, "),
        ({"expert_replicas": "many"}, "`expert_replicas`"),
        ({"expert_num_cpus": 0}, "`expert_num_cpus`.*greater than 0"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_serve_settings(arguments)


def test_a_bundle_must_be_given_and_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`bundle` is not set"):
        bundle_path("")
    with pytest.raises(ConfigError, match="no bundle at"):
        bundle_path(str(tmp_path))


def test_the_config_file_holds_valid_arguments() -> None:
    config = yaml.safe_load(APP_YAML.read_text())
    (application,) = config["applications"]
    settings = read_serve_settings(application["args"])
    assert application["import_path"] == "serve.app:build"
    assert explain_shortage(demands_of(settings, ["news", "forum"]), {"CPU": 2.0}) is None


def test_the_defaults_leave_room_on_two_cores_for_stream_workers() -> None:
    demands = demands_of(ServeSettings(), ["news", "forum"])
    assert explain_shortage([*demands, Demand("stream workers", 2, 0.2)], {"CPU": 2.0}) is None


def test_what_does_not_fit_is_named() -> None:
    demands = demands_of(ServeSettings(expert_num_cpus=1.0), ["news", "forum"])
    shortage = explain_shortage(demands, {"CPU": 2.0, "memory": 1e9})
    assert shortage is not None
    assert "2.2 CPUs are wanted, 2 are there" in shortage
    assert "expert `forum` (1 x 1 CPUs)" in shortage
    assert "expert `news`" not in shortage
    assert "expert_num_cpus" in shortage


def test_fractions_that_add_up_exactly_fit() -> None:
    assert explain_shortage([Demand("a", 10, 0.1), Demand("b", 1, 1.0)], {"CPU": 2.0}) is None
    assert explain_shortage([Demand("a", 1, 0.1)], {}) is not None
