"""What is told of ranks that an index does not give: their share, and blanks, never a guess."""

from __future__ import annotations

import math
from typing import Any

from agents.report.summary import Summary


def beyond_block(summary: Summary) -> list[str]:
    """Lines of the table: how many dialogs' ranks lie beyond the depth, turn by turn.

    Args:
        summary: From `summarise` with a depth.
    """
    depth, shares = summary["depth"], summary["beyond"]
    label_width = max(len(name) for name in shares)
    turns = range(len(next(iter(shares.values()))))
    lines = [
        f"rank beyond {depth} (share of dialogs; - stands where a mean is not known for that)",
        f"  {'turn':<{label_width}}" + "".join(f"{turn:>7}" for turn in turns),
    ]
    for name, row in shares.items():
        lines.append(f"  {name:<{label_width}}" + "".join(f"{share:>7.3f}" for share in row))
    return lines


def cell(value: float, digits: int) -> str:
    """A number for a table, or a dash where it is not known."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def without_nan(content: Any) -> Any:
    """Content for JSON, which has no NaN and no infinity: null stands for what is not known.

    Example:
        >>> without_nan({"percentile": [0.5, float("nan")]})
        {'percentile': [0.5, None]}
    """
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
