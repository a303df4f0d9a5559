"""The table for the terminal and the plot of lines over turns."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from agents.report.beyond import beyond_block, cell
from agents.report.limits import Limit
from agents.report.summary import LOWER_IS_BETTER, PLOTTED_METRICS, Summary
from retrieval.files import atomic_write

PathLike = str | os.PathLike[str]


def format_table(
    summary: Summary,
    metrics: Sequence[str] = ("percentile", "recall@1", "recall@10", "mrr", "bri"),
) -> str:
    """Lay the summary out for the terminal: one block per metric, agents by turns.

    Args:
        summary: From `summarise`.
        metrics: The blocks, in order.

    Returns:
        Plain text without a final line break.
    """
    agents = summary["agents"]
    label_width = max(len(name) for name in agents)
    blocks = [f"{summary['dialogs']} dialogs, gallery of {summary['gallery_size']} images"]
    for metric in metrics:
        digits = 1 if metric == "median_rank" else 3
        cells = {name: [cell(v, digits) for v in agents[name][metric]] for name in agents}
        turns = range(len(next(iter(cells.values()))))
        width = 1 + max(6, *(len(text) for row in cells.values() for text in row))
        direction = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
        lines = [
            f"{metric} ({direction}{_widest(summary, metric)})",
            f"  {'turn':<{label_width}}" + "".join(f"{turn:>{width}}" for turn in turns),
        ]
        for name, row in cells.items():
            lines.append(f"  {name:<{label_width}}" + "".join(f"{text:>{width}}" for text in row))
        blocks.append("\n".join(lines))
    if "depth" in summary:
        blocks.append("\n".join(beyond_block(summary)))
    return "\n\n".join(blocks)


def _widest(summary: Summary, metric: str) -> str:
    """How uncertain a block is at worst, in words."""
    intervals = [each[metric] for each in summary["intervals"].values() if metric in each]
    if not intervals:
        return ""
    widths = np.concatenate([np.subtract(each["high"], each["low"]) for each in intervals])
    known = widths[np.isfinite(widths)]
    return f"; 95 % intervals within ±{known.max() / 2:.3f}" if len(known) else ""


def plot(path: PathLike, summary: Summary, limits: Sequence[Limit] = ()) -> None:
    """Draw the metrics over turns with 95 % bands, and dashed lines for the limits.

    Args:
        path: A PNG file.
        summary: From `summarise`.
        limits: Lines for the panel of their metric; the same label shares a legend entry.

    Raises:
        ImportError: Matplotlib is missing.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("plot() draws with Matplotlib: pip install matplotlib") from error

    agents = summary["agents"]
    colors = colormaps["tab10" if len(agents) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    markers = "os^Dv<>pPX"
    dashes = [(4, 2), (1, 1.5), (7, 2, 1, 2)]
    labels = list(dict.fromkeys(limit.label for limit in limits))

    # one panel per metric; a Figure of its own uses Agg and leaves pyplot's state alone
    figure = Figure(figsize=(11.5, 7.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    handles = {}
    for panel, metric in zip(panels.flat, PLOTTED_METRICS, strict=True):
        for row, name in enumerate(agents):
            values = agents[name][metric]
            interval = summary["intervals"][name][metric]
            color = colors[row % len(colors)]
            panel.fill_between(
                range(len(values)), interval["low"], interval["high"], color=color, alpha=0.13, lw=0
            )
            (handles[name],) = panel.plot(
                values,
                color=color,
                marker=markers[row % len(markers)],
                markersize=4.5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                linewidth=1.7,
            )
        for limit in limits:
            if limit.metric == metric:
                (handles[limit.label],) = panel.plot(
                    limit.values,
                    color="0.25",
                    linewidth=1.4,
                    zorder=1.5,  # under the agents, which may reach it
                    dashes=dashes[labels.index(limit.label) % len(dashes)],
                )
        direction = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
        panel.set_title(f"{metric} ({direction})", loc="left", fontsize=11)
        if metric != "percentile":
            panel.set_ylim(bottom=0 if metric == "bri" else -0.03)
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels[1]:
        panel.set_xlabel("turn")

    # a shared legend beside the panels: agents first, then limits
    names = [*agents, *(label for label in labels if label in handles)]
    figure.legend(
        [handles[name] for name in names], names, loc="outside right upper", frameon=False
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    figure.suptitle(
        f"{summary['dialogs']} dialogs, gallery of {summary['gallery_size']:,} images, "
        "bands: 95 % bootstrap intervals",
        fontsize=10,
        color="0.35",
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
