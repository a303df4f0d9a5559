"""From tables of ranks to what is written down: numbers, intervals, run files and a plot."""

import csv
import gzip
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import NamedTuple, TextIO, TypedDict
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from retrieval.files import atomic_write
from retrieval.metrics import (
    best_log_rank_integral,
    rank_percentile,
    recall_at_k,
    reciprocal_rank,
    success_by_turn,
)

Floats = NDArray[np.float64]
PathLike = str | os.PathLike[str]

METRICS = (
    "percentile",
    "recall@1",
    "recall@5",
    "recall@10",
    "mrr",
    "median_rank",
    "success@1",
    "success@5",
    "success@10",
    "bri",
)
MEAN_METRICS = tuple(metric for metric in METRICS if metric != "median_rank")
COMPARED_METRICS = ("percentile", "recall@1", "recall@5", "recall@10", "mrr", "bri")
PLOTTED_METRICS = ("percentile", "recall@1", "recall@10", "bri")
LOWER_IS_BETTER = ("median_rank", "bri")


class Interval(TypedDict):
    """A 95 % interval for every turn."""

    low: list[float]
    high: list[float]


class Summary(TypedDict):
    """The benchmark's numbers, ready for JSON; every list runs over turns 0..T."""

    gallery_size: int
    dialogs: int
    clusters: int
    bootstrap: int
    agents: dict[str, dict[str, list[float]]]
    intervals: dict[str, dict[str, Interval]]


class Comparison(TypedDict):
    """One metric of agents a and b at one turn, over the same dialogs."""

    a: str
    b: str
    metric: str
    turn: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


class Limit(NamedTuple):
    """A line no agent can cross, or one it should be measured against."""

    label: str
    metric: str
    values: list[float]  # over turns 0..T


# Summary and comparisons ------------------------------------------------------------------


def summarise(
    ranks: Mapping[str, np.ndarray],
    gallery_size: int,
    *,
    rng: np.random.Generator,
    bootstrap: int = 2000,
    clusters: np.ndarray | None = None,
) -> Summary:
    """Turn rank tables into every metric at every turn, with 95 % intervals.

    The intervals are percentile-bootstrap intervals of the mean over dialogs, from one set of
    resamples that all agents share. `median_rank` is the median 0-based mid-rank and has none.

    Args:
        ranks: For each agent the ranks (E, T + 1) of the same dialogs, in the same order.
        gallery_size: N.
        rng: Draws the resamples.
        bootstrap: How many resamples.
        clusters: What to resample as a whole (E,), such as target ids when several seeds are
            pooled; each dialog on its own when absent.

    Returns:
        `agents` and `intervals`: agent -> metric -> values over turns.
    """
    tables = _checked(ranks, gallery_size)
    dialogs, turns = next(iter(tables.values())).shape
    values = {name: _per_dialog(table, gallery_size) for name, table in tables.items()}

    stacked = np.stack([_columns(each, MEAN_METRICS) for each in values.values()])  # (A, E, M)
    sums, sizes = _by_cluster(stacked, clusters)
    means = _resampled_means(sums, sizes, bootstrap, rng)  # (A, bootstrap, M)
    bounds = np.quantile(means, [0.025, 0.975], axis=1)  # (2, A, M)
    bounds = bounds.reshape(2, len(tables), len(MEAN_METRICS), turns)

    agents: dict[str, dict[str, list[float]]] = {}
    intervals: dict[str, dict[str, Interval]] = {}
    for row, (name, each) in enumerate(values.items()):
        agents[name] = {
            metric: (
                np.median(tables[name], axis=0)
                if metric == "median_rank"
                else each[metric].mean(axis=0)
            ).tolist()
            for metric in METRICS
        }
        intervals[name] = {
            metric: {"low": low.tolist(), "high": high.tolist()}
            for metric, low, high in zip(MEAN_METRICS, *bounds[:, row], strict=True)
        }
    return {
        "gallery_size": gallery_size,
        "dialogs": dialogs,
        "clusters": len(sizes),
        "bootstrap": bootstrap,
        "agents": agents,
        "intervals": intervals,
    }


def compare(
    ranks: Mapping[str, np.ndarray],
    gallery_size: int,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    rng: np.random.Generator,
    bootstrap: int = 2000,
    randomisations: int = 5000,
    clusters: np.ndarray | None = None,
) -> list[Comparison]:
    r"""Tell which differences between agents are more than luck.

    Pairs by dialog: the difference of the means (a minus b), its 95 % paired bootstrap
    interval, and the two-sided sign-flip randomisation p-value

    .. math:: p = \frac{1 + \#\{r : |\sum_c \pm_{rc} d_c| \ge |\sum_c d_c|\}}{1 + R}

    where d_c is the summed difference of cluster c and R = `randomisations`. `p_holm` is p
    after Holm's correction across turns 0..T, within a metric and a pair.

    Args:
        ranks: For each agent the ranks (E, T + 1) of the same dialogs, in the same order.
        gallery_size: N.
        pairs: Agents (a, b) to compare; every unordered pair when absent.
        rng: Draws the resamples and the signs.
        bootstrap: How many resamples.
        randomisations: How many sign-flips, R; no p-value is below 1 / (1 + R).
        clusters: What to resample and flip as a whole (E,), such as target ids.

    Returns:
        One row per pair, metric and turn.
    """
    tables = _checked(ranks, gallery_size)
    chosen = list(combinations(tables, 2)) if pairs is None else list(pairs)
    for name in {name for pair in chosen for name in pair}:
        if name not in tables:
            raise ValueError(f"unknown agent {name!r}. Known: {', '.join(tables)}.")
    turns = next(iter(tables.values())).shape[1]
    rows = {name: row for row, name in enumerate(tables)}

    # both statistics are linear, so each agent is resampled once and pairs only subtract
    stacked = np.stack(
        [_columns(_per_dialog(table, gallery_size), COMPARED_METRICS) for table in tables.values()]
    )  # (A, E, M)
    sums, sizes = _by_cluster(stacked, clusters)
    means = _resampled_means(sums, sizes, bootstrap, rng)  # (A, bootstrap, M)
    flipped = _sign_flipped_sums(sums, randomisations, rng)  # (A, randomisations, M)

    found: list[Comparison] = []
    grid = (len(COMPARED_METRICS), turns)
    for a, b in chosen:
        i, j = rows[a], rows[b]
        difference = (stacked[i] - stacked[j]).mean(axis=0).reshape(grid)
        low, high = np.quantile(means[i] - means[j], [0.025, 0.975], axis=0).reshape(2, *grid)
        observed = np.abs((sums[i] - sums[j]).sum(axis=0))  # (M,)
        # recalls are counts, so exact ties are common: rounding must not break them
        as_large = np.abs(flipped[i] - flipped[j]) >= observed - 1e-9
        p = ((1 + as_large.sum(axis=0)) / (1 + randomisations)).reshape(grid)
        p_holm = holm(p)
        found += [
            {
                "a": a,
                "b": b,
                "metric": metric,
                "turn": turn,
                "difference": float(difference[m, turn]),
                "low": float(low[m, turn]),
                "high": float(high[m, turn]),
                "p": float(p[m, turn]),
                "p_holm": float(p_holm[m, turn]),
            }
            for m, metric in enumerate(COMPARED_METRICS)
            for turn in range(turns)
        ]
    return found


def holm(p: np.ndarray) -> Floats:
    """Correct p-values for having looked several times, by Holm's step-down rule.

    The i-th smallest of n becomes `max over j <= i of min(1, (n - j) p_j)`, counting from 0.

    Args:
        p: p-values; each row (last axis) is one family of tests.

    Returns:
        Corrected p-values of the same shape.
    """
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    corrected = np.empty(p.shape, dtype=np.float64)
    raised = np.maximum.accumulate(np.minimum(steps, 1.0), axis=-1)
    np.put_along_axis(corrected, order, raised, axis=-1)
    return corrected


def _checked(ranks: Mapping[str, np.ndarray], gallery_size: int) -> dict[str, Floats]:
    """Rank tables as float64, all of one shape (E, T + 1) and within the gallery."""
    if not ranks:
        raise ValueError("there is nothing to report: `ranks` holds no agent.")
    tables = {name: np.asarray(table, dtype=np.float64) for name, table in ranks.items()}
    shape = next(iter(tables.values())).shape
    for name, table in tables.items():
        if table.ndim != 2 or 0 in table.shape or table.shape != shape:
            raise ValueError(
                f"ranks of {name!r} have shape {table.shape}, expected (dialogs, turns + 1), "
                f"not empty and the same for all agents; the first one has {shape}."
            )
        if not ((table >= 0) & (table <= gallery_size - 1)).all():
            raise ValueError(
                f"ranks of {name!r} must lie in [0, {gallery_size - 1}] for a gallery of "
                f"{gallery_size} images: 0-based, and finite."
            )
    return tables


def _per_dialog(ranks: Floats, gallery_size: int) -> dict[str, Floats]:
    """Every metric that is a mean over dialogs, before taking the mean: (E, T + 1) each."""
    return {
        "percentile": rank_percentile(ranks, gallery_size),
        **{f"recall@{k}": recall_at_k(ranks, k) for k in (1, 5, 10)},
        "mrr": reciprocal_rank(ranks),
        **{f"success@{k}": success_by_turn(ranks, k) for k in (1, 5, 10)},
        "bri": best_log_rank_integral(ranks),
    }


def _columns(values: Mapping[str, Floats], metrics: Sequence[str]) -> Floats:
    """Lay metrics side by side: (E, M) with M = metrics x turns."""
    return np.concatenate([values[metric] for metric in metrics], axis=1)


def _by_cluster(values: Floats, clusters: np.ndarray | None) -> tuple[Floats, Floats]:
    """Sum values (A, E, M) within clusters: sums (A, C, M) and cluster sizes (C,)."""
    dialogs = values.shape[1]
    if clusters is None:
        return values, np.ones(dialogs)
    labels = np.asarray(clusters)
    if labels.shape != (dialogs,):
        raise ValueError(
            f"clusters have shape {labels.shape}, expected one label per dialog ({dialogs},)."
        )
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    return np.add.reduceat(values[:, order], starts, axis=1), sizes.astype(np.float64)


def _blocks(rows: int, row_size: int) -> Iterator[slice]:
    """Cut a (rows, row_size) matrix into slices of rows that fit in some 32 MB."""
    step = max(1, 2**22 // row_size)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _resampled_means(
    sums: Floats, sizes: Floats, bootstrap: int, rng: np.random.Generator
) -> Floats:
    """Means over dialogs when clusters are drawn with replacement: (A, bootstrap, M)."""
    count = len(sizes)
    means = np.empty((len(sums), bootstrap, sums.shape[2]))
    for block in _blocks(bootstrap, count):
        rows = block.stop - block.start
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        # multinomial weights: how often each resample holds each cluster
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        weights = weights.astype(np.float64)  # (rows, C)
        means[:, block] = (weights @ sums) / (weights @ sizes)[:, None]
    return means


def _sign_flipped_sums(sums: Floats, randomisations: int, rng: np.random.Generator) -> Floats:
    """Sums over clusters under random signs, the same for all: (A, randomisations, M)."""
    count = sums.shape[1]
    flipped = np.empty((len(sums), randomisations, sums.shape[2]))
    for block in _blocks(randomisations, count):
        signs = rng.integers(2, size=(block.stop - block.start, count)) * 2.0 - 1.0
        flipped[:, block] = signs @ sums
    return flipped


# Limits -----------------------------------------------------------------------------------


def counting_bound(gallery_size: int, replies: int, turns: int, k: int) -> list[float]:
    """Bound Recall@K by what t replies can tell apart: `min(1, K F^t / N)` at t = 0..T.

    It bounds the expected recall of agents whose scores do not tie; see `recall_at_k` on ties.

    Args:
        gallery_size: N.
        replies: F, how many different replies the user can give, heard so far or not.
        turns: T.
        k: K.
    """
    return [min(gallery_size, k * replies**t) / gallery_size for t in range(turns + 1)]


def indistinguishability_ceiling(attributes: np.ndarray) -> float:
    """Bound the expected Recall@1, whatever the turns: `U / N`.

    U of the N rows differ; a user who speaks of attributes cannot tell equal rows apart. Holds
    when equal rows do not tie: two images tied for the first place both count as found.

    Args:
        attributes: Attribute values (N, A).
    """
    return len(np.unique(attributes, axis=0)) / len(attributes)


# Files ------------------------------------------------------------------------------------


def write_run(
    path: PathLike,
    name: str,
    query_ids: Sequence[int] | np.ndarray,
    candidates: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
) -> None:
    """Write what an agent offered as a TREC run, so that others can score it again.

    Lines read `q17#t3 Q0 image rank score agent`. Scores strictly decrease also in float32,
    which trec_eval keeps: where they do not, the order of `candidates` decides and the score
    is lowered by a hair. White space and `%` in names are percent-encoded.

    Args:
        path: Where to write; gzip when it ends with `.gz`.
        name: The agent; becomes the tag.
        query_ids: A number for each dialog (E,).
        candidates: Gallery rows (E, T + 1, K), best first.
        scores: Their scores (E, T + 1, K).
        names: Names of the gallery's images.
    """
    if candidates.shape != scores.shape or len(query_ids) != len(candidates):
        raise ValueError(
            f"expected query_ids (E,), candidates and scores (E, T + 1, K), came "
            f"({len(query_ids)},), {candidates.shape} and {scores.shape}."
        )
    falling = _strictly_decreasing(scores)
    words = [_word(image) for image in names]
    tag = _word(name)
    with _open_text(path) as file:
        for e, query in enumerate(query_ids):
            for t in range(candidates.shape[1]):
                pairs = zip(candidates[e, t].tolist(), falling[e, t].tolist(), strict=True)
                file.writelines(
                    f"{_query_id(query, t)} Q0 {words[image]} {rank} {score:.9g} {tag}\n"
                    for rank, (image, score) in enumerate(pairs, start=1)
                )


def write_qrels(
    path: PathLike,
    targets: Sequence[int] | np.ndarray,
    names: Sequence[str],
    turns: int,
    query_ids: Sequence[int] | np.ndarray | None = None,
) -> None:
    """Write the targets as TREC qrels, one line per dialog and turn, to go with `write_run`.

    Args:
        path: Where to write; gzip when it ends with `.gz`.
        targets: Gallery rows of the targets (E,).
        names: Names of the gallery's images.
        turns: T; turns 0..T are written.
        query_ids: The numbers given to `write_run`; 0..E - 1 when absent.
    """
    numbers = range(len(targets)) if query_ids is None else query_ids
    with _open_text(path) as file:
        for query, target in zip(numbers, targets, strict=True):
            word = _word(names[int(target)])
            file.writelines(f"{_query_id(query, t)} 0 {word} 1\n" for t in range(turns + 1))


def write_csv(path: PathLike, summary: Summary) -> None:
    """Write one row per agent, turn and metric: agent, turn, metric, value, low, high.

    Args:
        path: Where to write.
        summary: From `summarise`. `low` and `high` stay empty for metrics without an interval.
    """
    with _open_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["agent", "turn", "metric", "value", "low", "high"])
        for name, metrics in summary["agents"].items():
            for metric, values in metrics.items():
                interval = summary["intervals"][name].get(metric)
                for turn, value in enumerate(values):
                    bounds = (
                        [interval["low"][turn], interval["high"][turn]] if interval else ["", ""]
                    )
                    writer.writerow([name, turn, metric, value, *bounds])


def _query_id(query: int, turn: int) -> str:
    return f"q{int(query)}#t{turn}"


def _word(text: str) -> str:
    """One word, as TREC's columns are separated by white space; reversed by `unquote`."""
    return re.sub(r"[\s%]", lambda match: quote(match[0]), text)


def _strictly_decreasing(scores: np.ndarray) -> NDArray[np.float32]:
    """Scores (E, T + 1, K) in float32, lowered only where they would not fall."""
    if not np.isfinite(scores).all():
        raise ValueError("scores for a run file must be finite; some are NaN or infinite.")
    falling = scores.astype(np.float32)
    for k in range(1, falling.shape[-1]):
        before = falling[..., k - 1]
        below = before - np.float32(2**-22) * np.maximum(np.abs(before), np.float32(1))
        falling[..., k] = np.where(falling[..., k] < before, falling[..., k], below)
    return falling


@contextmanager
def _open_text(path: PathLike) -> Iterator[TextIO]:
    """A text file that appears once complete; gzip by suffix, with no clock in its bytes."""
    with atomic_write(path) as temporary, temporary.open("wb") as raw:
        if temporary.suffix == ".gz":
            with (
                gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
            ):
                yield file
        else:
            with io.TextIOWrapper(raw, encoding="utf-8", newline="") as file:
                yield file


# Table and plot ---------------------------------------------------------------------------


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
        cells = {name: [f"{v:.{digits}f}" for v in agents[name][metric]] for name in agents}
        turns = range(len(next(iter(cells.values()))))
        width = 1 + max(6, *(len(cell) for row in cells.values() for cell in row))
        direction = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
        lines = [
            f"{metric} ({direction}{_widest(summary, metric)})",
            f"  {'turn':<{label_width}}" + "".join(f"{turn:>{width}}" for turn in turns),
        ]
        for name, row in cells.items():
            lines.append(f"  {name:<{label_width}}" + "".join(f"{cell:>{width}}" for cell in row))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _widest(summary: Summary, metric: str) -> str:
    """How uncertain a block is at worst, in words."""
    intervals = [each[metric] for each in summary["intervals"].values() if metric in each]
    if not intervals:
        return ""
    widths = [np.subtract(each["high"], each["low"]).max() for each in intervals]
    return f"; 95 % intervals within ±{max(widths) / 2:.3f}"


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
