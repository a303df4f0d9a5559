"""Messages for the caller's mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """An error that says what was expected, what came and what to do.

    Example:
        >>> print(unknown("composer", "trig", ["film", "tirg"]))
        unknown composer 'trig'. Did you mean 'tirg'? Known: film, tirg.
    """
    names = sorted(known)
    close = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ValueError(f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}.")
