"""From tables of ranks to means, intervals and paired comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from agents.report.summary import (
    COMPARED_METRICS,
    METRICS,
    Comparison,
    Interval,
    Summary,
)
from retrieval.metrics import (
    BEYOND,
    best_log_rank_integral,
    rank_percentile,
    recall_at_k,
    reciprocal_rank,
    success_by_turn,
)

Floats = NDArray[np.float64]


def summarise(
    ranks: Mapping[str, np.ndarray],
    gallery_size: int,
    *,
    rng: np.random.Generator,
    bootstrap: int = 2000,
    clusters: np.ndarray | None = None,
    found: Mapping[str, np.ndarray] | None = None,
    depth: int | None = None,
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
        found: For each agent whether each dialog had found its target by each turn (E, T + 1),
            as `found_by_turn` tells; becomes the metric "found".
        depth: Of the index, where ranks may be `retrieval.metrics.BEYOND` it. A mean of which a
            dialog's part is not known is NaN, and `beyond` tells the share of such dialogs.

    Returns:
        `agents` and `intervals`: agent -> metric -> values over turns.
    """
    tables = _checked(ranks, gallery_size, depth)
    dialogs, turns = next(iter(tables.values())).shape
    values = {name: _per_dialog(tables, name, gallery_size, found, depth) for name in tables}
    metrics = [*METRICS, *(["found"] if found else [])]
    mean_metrics = [metric for metric in metrics if metric != "median_rank"]

    stacked = np.stack([_columns(each, mean_metrics) for each in values.values()])  # (A, E, M)
    sums, sizes = _by_cluster(stacked, clusters)
    means = _resampled_means(sums, sizes, bootstrap, rng)  # (A, bootstrap, M)
    bounds = np.quantile(means, [0.025, 0.975], axis=1)  # (2, A, M)
    bounds = bounds.reshape(2, len(tables), len(mean_metrics), turns)

    agents: dict[str, dict[str, list[float]]] = {}
    intervals: dict[str, dict[str, Interval]] = {}
    for row, (name, each) in enumerate(values.items()):
        agents[name] = {
            metric: (
                np.median(tables[name], axis=0)
                if metric == "median_rank"
                else each[metric].mean(axis=0)
            ).tolist()
            for metric in metrics
        }
        intervals[name] = {
            metric: {"low": low.tolist(), "high": high.tolist()}
            for metric, low, high in zip(mean_metrics, *bounds[:, row], strict=True)
        }
    summary: Summary = {
        "gallery_size": gallery_size,
        "dialogs": dialogs,
        "clusters": len(sizes),
        "bootstrap": bootstrap,
        "agents": agents,
        "intervals": intervals,
    }
    if depth is not None:
        summary["depth"] = depth
        summary["beyond"] = {
            name: (table == BEYOND).mean(axis=0).tolist() for name, table in tables.items()
        }
    return summary


def compare(
    ranks: Mapping[str, np.ndarray],
    gallery_size: int,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    rng: np.random.Generator,
    bootstrap: int = 2000,
    randomisations: int = 5000,
    clusters: np.ndarray | None = None,
    found: Mapping[str, np.ndarray] | None = None,
    depth: int | None = None,
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
        found: As for `summarise`.
        depth: As for `summarise`.

    Returns:
        One row per pair, metric and turn, but for means that are not known.
    """
    tables = _checked(ranks, gallery_size, depth)
    chosen = list(combinations(tables, 2)) if pairs is None else list(pairs)
    for name in {name for pair in chosen for name in pair}:
        if name not in tables:
            raise ValueError(f"unknown agent {name!r}. Known: {', '.join(tables)}.")
    turns = next(iter(tables.values())).shape[1]
    rows = {name: row for row, name in enumerate(tables)}

    # both statistics are linear, so each agent is resampled once and pairs only subtract
    metrics = [*COMPARED_METRICS, *(["found"] if found else [])]
    stacked = np.stack(
        [
            _columns(_per_dialog(tables, name, gallery_size, found, depth), metrics)
            for name in tables
        ]
    )  # (A, E, M)
    sums, sizes = _by_cluster(stacked, clusters)
    means = _resampled_means(sums, sizes, bootstrap, rng)  # (A, bootstrap, M)
    flipped = _sign_flipped_sums(sums, randomisations, rng)  # (A, randomisations, M)

    comparisons: list[Comparison] = []
    grid = (len(metrics), turns)
    for a, b in chosen:
        i, j = rows[a], rows[b]
        difference = (stacked[i] - stacked[j]).mean(axis=0).reshape(grid)
        low, high = np.quantile(means[i] - means[j], [0.025, 0.975], axis=0).reshape(2, *grid)
        observed = np.abs((sums[i] - sums[j]).sum(axis=0))  # (M,)
        # recalls are counts, so exact ties are common: rounding must not break them
        as_large = np.abs(flipped[i] - flipped[j]) >= observed - 1e-9
        p = ((1 + as_large.sum(axis=0)) / (1 + randomisations)).reshape(grid)
        p[np.isnan(difference)] = np.nan  # sorted last, where Holm's rule leaves the others alone
        p_holm = holm(p)
        comparisons += [
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
            for m, metric in enumerate(metrics)
            for turn in range(turns)
            if not np.isnan(difference[m, turn])
        ]
    return comparisons


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


def _checked(
    ranks: Mapping[str, np.ndarray], gallery_size: int, depth: int | None
) -> dict[str, Floats]:
    """Rank tables as float64, all of one shape (E, T + 1) and within the gallery, or beyond."""
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
        inside = (table >= 0) & (table <= gallery_size - 1)
        if not (inside | ((table == BEYOND) & (depth is not None))).all():
            raise ValueError(
                f"ranks of {name!r} must lie in [0, {gallery_size - 1}] for a gallery of "
                f"{gallery_size} images: 0-based, and finite."
            )
    return tables


def _per_dialog(
    tables: Mapping[str, Floats],
    name: str,
    gallery_size: int,
    found: Mapping[str, np.ndarray] | None,
    depth: int | None,
) -> dict[str, Floats]:
    """Every metric of an agent that is a mean over dialogs, before the mean: (E, T + 1) each."""
    ranks = tables[name]
    if found and found[name].shape != ranks.shape:
        raise ValueError(
            f"found of {name!r} has shape {found[name].shape}, expected {ranks.shape} as its ranks."
        )
    values = {
        "percentile": rank_percentile(ranks, gallery_size),
        **{f"recall@{k}": recall_at_k(ranks, k, depth or 0) for k in (1, 5, 10)},
        "mrr": reciprocal_rank(ranks),
        **{f"success@{k}": success_by_turn(ranks, k, depth or 0) for k in (1, 5, 10)},
        "bri": best_log_rank_integral(ranks),
    }
    return values | {"found": np.asarray(found[name], np.float64)} if found else values


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
