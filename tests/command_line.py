"""Commands called in this process, as a person would type them."""

import importlib
import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch


class Outcome(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def call(command: str, *arguments: object) -> Outcome:
    """A command in this process."""
    main = importlib.import_module(f"scripts.{command}").main
    out, err, code = io.StringIO(), io.StringIO(), 0
    typed = [command, *(str(argument) for argument in arguments)]
    with patch.object(sys, "argv", typed), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def do(command: str, *arguments: object) -> Outcome:
    """A command that must succeed."""
    outcome = call(command, *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(command: str, *arguments: object, at_once: bool = True) -> str:
    """The one sentence of a command that must fail with exit code 2.

    With `at_once=False` it may have reported progress before.
    """
    outcome = call(command, *arguments)
    assert outcome.code == 2, (outcome.code, outcome.err)
    lines = outcome.err.splitlines()
    assert len(lines) == 1 or not at_once, outcome.err
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in outcome.err + outcome.out
    return lines[-1]
