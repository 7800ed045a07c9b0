"""What a user can set about serving, and how `serve run serve.app:build key=value` is checked."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sentiment.cli import STRICT
from sentiment.errors import ConfigError
from sentiment.records import MAX_TEXT_CHARS


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServeSettings:
    """One bundle behind one router stage and one deployment per expert."""

    bundle: str = ""
    """directory of the bundle to serve; the same path on every node [path]"""
    router_replicas: PositiveInt = 1
    """copies of the router stage: it takes the requests, tokenises and gates [replicas]"""
    expert_replicas: PositiveInt = 1
    """copies of each expert [replicas]"""
    router_num_cpus: PositiveFloat = 0.2
    """CPUs reserved by a router replica; a share, so that a 2-core machine holds it all [CPUs]"""
    expert_num_cpus: PositiveFloat = 0.2
    """CPUs reserved by an expert replica [CPUs]"""
    threads: PositiveInt = 1
    """threads a replica computes with [threads]"""
    max_padded_tokens: PositiveInt = 2_048
    """size of a micro-batch: rows times longest row; calls take turns between micro-batches [tokens]"""
    max_call_rows: PositiveInt = 1_024
    """most rows in one call from the router stage to an expert [rows]"""
    max_call_tokens: PositiveInt = 65_536
    """most tokens in one call from the router stage to an expert [tokens]"""
    max_texts: PositiveInt = 1_024
    """most texts in one HTTP request; more is answered 413 [texts]"""
    max_text_chars: PositiveInt = MAX_TEXT_CHARS
    """longest text an HTTP request may hold; the model itself reads the first `max_length` tokens [characters]"""
    max_body_bytes: PositiveInt = 8 * 1024 * 1024
    """largest body of an HTTP request; more is answered 413 [bytes]"""
    max_ongoing_calls: PositiveInt = 32
    """calls one replica works on at a time [calls]"""
    max_queued_calls: NonNegativeInt = 512
    """calls that may wait for a free replica, per caller; more are answered 503 with Retry-After [calls]"""
    deadline_s: PositiveFloat = 30.0
    """how long a call is tried again after a replica died or was full before it is given up [s]"""


def read_serve_settings(arguments: Mapping[str, object]) -> ServeSettings:
    """Settings from the arguments of `serve run` or of a Serve config file (strings are converted).

    Raises:
        ConfigError: an argument is unknown (the nearest valid one is named) or cannot be converted.
    """
    valid = [field.name for field in dataclasses.fields(ServeSettings)]
    for key in arguments:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
            hint = f"; did you mean `{near[0]}`?" if near else f"; valid ones: {', '.join(valid)}"
            raise ConfigError(f"unknown argument `{key}`{hint}")
    try:
        return TypeAdapter(ServeSettings).validate_python(dict(arguments))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"argument `{key}`: {first['msg']}, got {first['input']!r}") from None


def bundle_path(bundle: str) -> str:
    """The absolute path of the bundle's directory.

    Raises:
        ConfigError: it is not given, or nothing is there.
    """
    if not bundle:
        raise ConfigError("`bundle` is not set: give the directory that training printed, e.g. bundle=/data/out/bundle")
    path = Path(bundle).expanduser().resolve()
    if not (path / "bundle.json").is_file():
        raise ConfigError(f"`bundle`: there is no bundle at {path} (no bundle.json); train one with `make demo`")
    return str(path)
