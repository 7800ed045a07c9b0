"""cluster.yaml is what Ray's own cluster launcher accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CONFIG = Path(__file__).parents[2] / "cluster.yaml"

pytestmark = pytest.mark.cluster


def test_cluster_yaml_fits_rays_schema() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    validate_config(prepare_config(config))
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert commands.count("RAY_AUTH_MODE=token") == 2


def test_rays_schema_would_refuse_a_typo() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    config["max_wokers"] = 3
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(config))
