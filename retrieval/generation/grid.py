"""Pictures beside one another: samples of a run, and what became of single queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from retrieval.files import atomic_write

GAP, LABEL, LINE = 8, 22, 15
INK, PAPER = (31, 41, 55), (255, 255, 255)


def save_samples(path: Path, drawn: np.ndarray, targets: np.ndarray) -> None:
    """Save drawn pictures (N, S, S, 3) in a row, and under each its true target."""
    columns = [{"drawn": one, "target": other} for one, other in zip(drawn, targets, strict=True)]
    with atomic_write(path) as temporary:
        Image.fromarray(np.vstack([
            np.hstack([column[name] for column in columns]) for name in ("drawn", "target")
        ])).save(temporary)  # fmt: skip


def draw_grid(
    rows: Sequence[Sequence[np.ndarray | None]],
    texts: Sequence[str],
    titles: Sequence[str],
    side: int = 128,
) -> np.ndarray:
    """A table of pictures under titles, each row's text in a column of its own after the first.

    Args:
        rows: for each query the reference, then the other pictures, uint8 (H, W, 3); None
            leaves a place empty.
        texts: for each query its words.
        titles: of the columns of pictures.
        side: pixels of each picture.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ValueError: rows of other lengths than the titles, or another number of texts.

    Example:
        >>> dot = np.zeros((2, 2, 3), dtype=np.uint8)
        >>> draw_grid([[dot, None]], ["make it red"], ["reference", "drawn"], side=32).shape
        (78, 128, 3)
    """
    if len(texts) != len(rows) or any(len(row) != len(titles) for row in rows):
        raise ValueError(
            f"expected {len(titles)} pictures and one text in each of {len(rows)} rows, got rows "
            f"of {sorted({len(row) for row in rows})} and {len(texts)} texts"
        )
    step = side + GAP
    size = GAP + (len(titles) + 1) * step, LABEL + GAP + len(rows) * step + GAP
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(12)
    lefts = [GAP] + [GAP + (place + 2) * step for place in range(len(titles) - 1)]
    for left, title in zip(lefts, titles, strict=True):
        pen.text((left, GAP), title, fill=INK, font=font)
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        top = LABEL + GAP + number * step
        for left, pixels in zip(lefts, row, strict=True):
            if pixels is not None:
                picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
                canvas.paste(picture, (left, top))
        for line, words in enumerate(_wrapped(text, font, side)):
            pen.text((GAP + step, top + line * LINE), words, fill=INK, font=font)
    return np.array(canvas)


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """Words in lines of at most `width` pixels; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
