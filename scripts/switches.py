"""Switches on a command line: `--flag`, `--no-flag`, and the originals' `--flag True`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


def spelled_out(arguments: Sequence[str], command: type) -> list[str]:
    """Arguments with every switch of a command's dataclass as `--flag=True` or `--flag=False`.

    The originals ask for `--use_bert True`; theirs took any value, "False" too, for true. Here
    a switch may stand alone, be denied with `--no-`, or be given true or false in words, and an
    empty value is false, as it was. The rest passes unchanged.

    Example:
        >>> @dataclasses.dataclass
        ... class Args:
        ...     use_bert: bool = False
        >>> spelled_out(["--use_bert", "--model", "tirg"], Args)
        ['--use-bert=True', '--model', 'tirg']
        >>> spelled_out(["--use-bert", "False"], Args)
        ['--use-bert=False']
    """
    switches = {field.replace("_", "-") for field in _switches(command)}
    spelled: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, given, value = argument.partition("=")
        name = name.removeprefix("--").replace("_", "-") if name.startswith("--") else ""
        is_denied = name.removeprefix("no-") in switches and name not in switches
        if name not in switches and not is_denied:
            spelled.append(argument)
            continue
        if not given and waiting and waiting[0].lower() in (*TRUE, *FALSE):
            given, value = "=", waiting.pop(0)
        if given and value.lower() not in (*TRUE, *FALSE):
            spelled.append(argument)  # left for the parser to refuse
            continue
        is_true = (not given or value.lower() in TRUE) != is_denied
        spelled.append(f"--{name.removeprefix('no-') if is_denied else name}={is_true}")
    return spelled


def _switches(command: type) -> list[str]:
    hints: dict[str, Any] = get_type_hints(command)
    return [
        field.name
        for field in dataclasses.fields(command)
        if hints[field.name] is bool or bool in get_args(hints[field.name])
    ]
