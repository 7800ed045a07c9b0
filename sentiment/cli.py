"""Settings for every command: a frozen pydantic dataclass beside its owner, read by jsonargparse.

`--config file.yaml`, `--a.b value`, `--print_config` (every default with its unit as a comment). An unknown key is
refused by its full name with the nearest valid one.
"""

from __future__ import annotations

import difflib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from jsonargparse import ArgumentParser, set_parsing_settings
from pydantic import ConfigDict, TypeAdapter, ValidationError

from sentiment.errors import SentimentError

C = TypeVar("C")

STRICT = ConfigDict(extra="forbid")
"""For every settings dataclass: `@dataclass(frozen=True, kw_only=True, config=STRICT)`, pydantic's dataclass."""


class _Parser(ArgumentParser):
    """Adds the nearest valid key to the error for an unknown one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {self.explain(message)}\n")
        raise SystemExit(2)

    def explain(self, message: str) -> str:
        keys = [action.dest for action in self._actions if action.dest not in ("help", "print_config")]
        if unknown := re.search(r"unrecognized arguments: --([\w.]+)", message):
            return _unknown(unknown.group(1), keys)
        if unknown := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
            return _unknown(f"{unknown.group(1)}.{unknown.group(2)}", keys)
        if unknown := re.search(r"Option '([\w.]+)' is not accepted", message):
            return _unknown(unknown.group(1), keys)
        return f"{message} (see --help, --print_config)"


def _unknown(key: str, keys: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    hint = f"; did you mean `{near[0]}`?" if near else "; see --print_config for the valid ones"
    return f"unknown setting `{key}`{hint}"


def read_settings(cls: type[C], argv: Sequence[str] | None, *, prog: str, summary: str, example: str) -> C:
    """Settings of type `cls` from the command line and `--config` files.

    Args:
        cls: a frozen pydantic dataclass; a docstring under each field says what it is, with its unit in brackets.
        argv: arguments after the program's name; None reads `sys.argv`.
        prog: the command as typed, e.g. `python -m ray_jobs.stream`.
        summary: one sentence for `--help`.
        example: a command that works, for `--help`.

    Raises:
        SystemExit: status 2 with one line that names the full key, when a setting is unknown or impossible.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(prog=prog, description=summary, epilog=f"example: {example}", allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file with these settings; later options win")
    parser.add_class_arguments(cls)
    arguments = list(sys.argv[1:] if argv is None else argv)
    arguments = ["--print_config=comments" if word == "--print_config" else word for word in arguments]
    namespace = parser.parse_args(arguments)
    values = namespace.as_dict()
    values.pop("config", None)
    try:
        # pydantic builds the nested classes itself, so that its error has the full key.
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        problem = first["msg"].removeprefix("Value error, ")
        key = ".".join(str(part) for part in first["loc"])
        parser.error(f"setting `{key}`: {problem}, got {first['input']!r}" if key else problem)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main`: errors of ours end it with one line and status 1, Ctrl-C with 130, no traceback."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it logs a line per failed reconnect; we report once
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        sys.exit(main() or 0)
    except SentimentError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
