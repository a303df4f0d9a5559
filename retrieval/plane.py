"""Points of an embedding space in the plane: PCA, t-SNE and a picture of either."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import unknown
from retrieval.files import atomic_write
from retrieval.projector import COLORS, GALLERY, QUERY, ROLES, THUMBNAIL, Points, thumbnail


def flatten(vectors: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Vectors (P, D) in the plane (P, 2).

    Args:
        vectors: at least three.
        method: "pca" (the two main axes) or "tsne" (van der Maaten and Hinton, JMLR 2008; needs
            scikit-learn, extra `projector`).
        seed: of t-SNE.

    Raises:
        ValueError: an unknown method, or fewer than three vectors.
        ImportError: scikit-learn is not installed.
    """
    if method not in FLATTENED:
        raise unknown("way to flatten", method, FLATTENED)
    if len(vectors) < 3:
        raise ValueError(f"expected three points or more to flatten, got {len(vectors)}")
    wide = np.asarray(vectors, dtype=np.float64)
    return FLATTENED[method](wide, seed)


def _pca(vectors: np.ndarray, seed: int) -> np.ndarray:
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    # an axis has no sign of its own; this one does not depend on the machine
    return np.asarray(centred @ (axes * np.sign(largest)).T)


def _tsne(vectors: np.ndarray, seed: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError(
            "t-SNE needs scikit-learn, which is not installed: `pip install scikit-learn` (extra "
            "`projector`)"
        ) from error
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(model.fit_transform(vectors))


FLATTENED = {"pca": _pca, "tsne": _tsne}
TITLES = {"pca": "PCA", "tsne": "t-SNE"}


def draw_points(
    path: Path, points: Points, methods: Sequence[str], shown: int = 6, seed: int = 0
) -> None:
    """A picture of the plane, one panel a method: the gallery in grey, paths over it.

    Args:
        path: the picture, its format by suffix.
        points: to be drawn.
        methods: names of `FLATTENED`.
        shown: groups whose paths and thumbnails are drawn, the first ones.
        seed: of t-SNE.

    Raises: see `flatten`.
    """
    from matplotlib.figure import Figure

    planes = [flatten(points.vectors, method, seed) for method in methods]
    figure = Figure(figsize=(7 * len(methods), 7), layout="constrained")
    panels: Any = figure.subplots(1, len(methods), squeeze=False)[0]
    for panel, plane, method in zip(panels, planes, methods, strict=True):
        _draw_panel(panel, points, plane, shown)
        panel.set_title(TITLES[method], loc="left", color="#1f2937")
    panels[0].legend(loc="best", frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_panel(panel: Any, points: Points, plane: np.ndarray, shown: int) -> None:
    """Dots, the paths of the first groups, and thumbnails of what they touch."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    drawn = points.paths[:shown]
    for role in ROLES:
        rows = points.rows(role)
        at = plane[rows]  # (p, 2)
        sign, size = ("x", 26) if role == QUERY else ("o", 8 if role == GALLERY else 22)
        panel.scatter(
            *at.T, s=size, marker=sign, c=COLORS[role], label=role, zorder=1 + ROLES.index(role),
            linewidths=1.2 if role == QUERY else 0, alpha=0.5 if role == GALLERY else 0.9,
        )  # fmt: skip
    for path in drawn:
        for begin, end in pairwise(path):
            panel.annotate(
                "", plane[end], plane[begin],
                arrowprops={"arrowstyle": "->", "color": "#1f2937", "lw": 1.1}, zorder=6,
            )  # fmt: skip
        for row in path:
            is_query = points.roles[row] == QUERY
            if is_query and points.turns.max() == 1:  # its picture is the reference beside it
                panel.annotate(
                    textwrap.fill(points.captions[row], 24), plane[row], (5, 5), fontsize=8,
                    textcoords="offset points", color=COLORS[QUERY], zorder=9,
                )  # fmt: skip
                continue
            picture = OffsetImage(thumbnail(points, row, THUMBNAIL), zoom=0.5)
            offset = (0, 26) if is_query else (0, -26)
            panel.add_artist(
                AnnotationBbox(
                    picture, plane[row], offset, boxcoords="offset points", pad=0, frameon=False,
                    zorder=8,
                )
            )  # fmt: skip
            if is_query:
                panel.annotate(
                    str(points.turns[row]), plane[row], (4, 2), textcoords="offset points",
                    color=COLORS[QUERY], zorder=9,
                )  # fmt: skip
    panel.set_axis_off()
