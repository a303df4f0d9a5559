"""The dialog so far as a picture and as text: what `render` returns.

Needs Pillow, so nothing but the rendering of an environment imports it.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]

INK: Colour = (31, 41, 55)
MUTED: Colour = (107, 114, 128)
FAINT: Colour = (209, 213, 219)
EMPTY: Colour = (246, 247, 249)
TRACK: Colour = (229, 231, 235)
PAPER: Colour = (255, 255, 255)
FOUND: Colour = (22, 163, 74)
"""Frames the target, wherever it is on show."""

MARGIN = 24
GAP = 20
FRAME = 4
LABEL = 24
BAR = 4
CAPTION_LINES = 5
LINE = 17


def draw_dialog(
    shown: Sequence[np.ndarray],
    captions: Sequence[str],
    target: np.ndarray | None,
    ranks: Sequence[float] | None,
    gallery_size: int,
    max_turns: int,
    found: Sequence[bool] | None = None,
    height: int = 128,
    believed: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:
    """Draw one dialog as a strip: the references in order of turn, then the target.

    Above each reference stands its turn; below it the target's rank, with a bar as long as the
    rank percentile, and the user's caption. Turns to come are empty frames, so that the size
    depends on `max_turns` and `height` alone, as a video needs. It is a multiple of 16, which
    every video codec takes.

    Args:
        shown: the reference images from turn 0 on, each uint8 (H, W, 3) of any size. One
            smaller than `height` is enlarged by a whole factor, one larger is shrunk to fit.
        captions: what the user said about each of them; the last may still be unsaid.
        target: the target image, or None to keep it hidden.
        ranks: the target's rank at each turn, 0 being best, or None to leave them out.
        gallery_size: number of images ranked (N).
        max_turns: the longest that the dialog can become (T).
        found: whether each reference is the target; such a one is framed like the target.
        height: side of the square in which each picture is drawn, in pixels.
        believed: for each reference a picture of what the system believed was wanted when it
            showed it, drawn beneath; None where it had heard nothing yet.

    Returns:
        A fresh uint8 array (height', width', 3).

    Raises:
        ValueError: if the lengths do not belong to one dialog, or a picture is not uint8
            (H, W, 3).
    """
    _check_lengths(len(shown), captions=captions, ranks=ranks, found=found, believed=believed)
    if len(shown) > max_turns + 1:
        raise ValueError(
            f"expected at most max_turns + 1 = {max_turns + 1} references, got {len(shown)}"
        )

    top = MARGIN + LABEL
    step = height + GAP
    target_left = MARGIN + (max_turns + 1) * step + GAP
    under = 0 if believed is None else height + LABEL + FRAME
    bottom = top + under + height + FRAME + BAR + 10 + LINE + 4 + CAPTION_LINES * LINE
    size = tuple(-(-side // 16) * 16 for side in (target_left + height + MARGIN, bottom + MARGIN))
    canvas = Image.new("RGB", (size[0], size[1]), PAPER)
    pen = ImageDraw.Draw(canvas)

    # the turns: those had and those to come
    for turn in range(max_turns + 1):
        left = MARGIN + turn * step
        is_past = turn < len(shown)
        is_found = is_past and found is not None and found[turn]
        colour = FOUND if is_found else MUTED if is_past else FAINT
        _write(pen, (left, MARGIN), f"turn {turn}", 14, colour, height)
        _place(canvas, shown[turn] if is_past else None, left, top, height, is_found)
        if believed is not None:
            belief = believed[turn] if is_past else None
            _write(pen, (left, top + height + FRAME + 3), "believed", 12, MUTED, height)
            _place(canvas, belief, left, top + under, height, False)
        below = top + under + height + FRAME + 6
        if is_past and ranks is not None:
            percentile = 1 - ranks[turn] / max(1, gallery_size - 1)
            pen.rectangle((left, below, left + height - 1, below + BAR - 1), fill=TRACK)
            if (length := round(percentile * height)) > 0:
                fill = FOUND if is_found else MUTED
                pen.rectangle((left, below, left + length - 1, below + BAR - 1), fill=fill)
            text = f"rank {_spell(ranks[turn])} of {gallery_size}"
            _write(pen, (left, below + BAR + 4), text, 12, colour, height)
            below += BAR + 4 + LINE + 4
        if turn < len(captions):
            _write(pen, (left, below), captions[turn], 14, INK, height, CAPTION_LINES)

    # the target, set apart by a line
    line = target_left - GAP
    pen.line((line, MARGIN, line, size[1] - MARGIN - 1), fill=FAINT)
    is_shown = target is not None
    _write(pen, (target_left, MARGIN), "target", 14, FOUND if is_shown else MUTED, height)
    _place(canvas, target, target_left, top, height, is_shown)
    return np.array(canvas)


def transcript(
    captions: Sequence[str],
    names: Sequence[str],
    ranks: Sequence[float] | None = None,
    found: Sequence[bool] | None = None,
) -> str:
    """Write one dialog down: a line for each reference, and beneath it the user's caption.

    Args:
        captions: what the user said about each reference; the last may still be unsaid.
        names: the references' names from turn 0 on.
        ranks: the target's rank at each turn, 0 being best, or None to leave them out.
        found: whether each reference is the target.

    Raises:
        ValueError: if the lengths do not belong to one dialog.

    Example:
        >>> print(transcript(["is red"], ["boot", "pump"], ranks=[7, 0], found=[False, True]))
        turn 0  boot  rank 7
                user: is red
        turn 1  pump  rank 0  found
    """
    _check_lengths(len(names), captions=captions, ranks=ranks, found=found)
    width = max(map(len, names), default=0)
    lines = []
    for turn, name in enumerate(names):
        rank = "" if ranks is None else f"  rank {_spell(ranks[turn])}"
        mark = "  found" if found is not None and found[turn] else ""
        lines.append(f"turn {turn}  {name:<{width}}{rank}{mark}".rstrip())
        if turn < len(captions):
            lines.append(f"        user: {' '.join(captions[turn].split())}".rstrip())
    return "\n".join(lines)


def _check_lengths(
    turns: int,
    captions: Sequence[str],
    ranks: Sequence[float] | None,
    found: Sequence[bool] | None,
    believed: Sequence[np.ndarray | None] | None = None,
) -> None:
    """Refuse lists that cannot be of the same dialog."""
    if len(captions) > turns:
        raise ValueError(
            f"expected at most one caption for each of {turns} references, got {len(captions)}"
        )
    for name, values in (("ranks", ranks), ("found", found), ("believed", believed)):
        if values is not None and len(values) != turns:
            raise ValueError(f"expected {name} for {turns} references, got {len(values)}")


def _spell(rank: float) -> str:
    """Write a rank, whose half stands for a tie, without a needless decimal."""
    return f"{rank:.1f}".removesuffix(".0")


def _place(
    canvas: Image.Image, pixels: np.ndarray | None, left: int, top: int, side: int, framed: bool
) -> None:
    """Put a picture in the middle of its square, or leave the square empty."""
    square = (left, top, left + side - 1, top + side - 1)
    pen = ImageDraw.Draw(canvas)
    if framed:
        around = (left - FRAME, top - FRAME, left + side + FRAME - 1, top + side + FRAME - 1)
        pen.rectangle(around, fill=FOUND)
    pen.rectangle(square, fill=EMPTY)
    if pixels is None:
        pen.rectangle(square, outline=FAINT)
        return
    picture = _fit(pixels, side)
    canvas.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))


def _fit(pixels: np.ndarray, side: int) -> Image.Image:
    """Bring a picture to the size of its square, keeping its proportions."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected a picture uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    picture = Image.fromarray(pixels)
    longest = max(picture.size)
    if longest > side:
        width, height = (max(1, round(length * side / longest)) for length in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)
    factor = side // longest
    # whole factors keep every pixel as it is: edges of drawn scenes stay sharp
    return picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: Colour,
    width: int,
    lines: int = 1,
) -> None:
    """Write text into a column, on as many lines as are free."""
    font = _font(size)
    for number, line in enumerate(_wrap(text, font, width, lines)):
        pen.text((place[0], place[1] + number * LINE), line, fill=colour, font=font)


def _wrap(text: str, font: Font, width: int, lines: int) -> list[str]:
    """Break text into at most `lines` lines of `width` pixels; an ellipsis ends cut text."""
    wrapped = [""]
    for word in text.split():
        joined = f"{wrapped[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            wrapped[-1] = joined
            continue
        if wrapped[-1]:
            wrapped.append("")
        for letter in word:  # a word too long for a line goes on in the next one
            if wrapped[-1] and font.getlength(wrapped[-1] + letter) > width:
                wrapped.append("")
            wrapped[-1] += letter
    if len(wrapped) > lines:
        last = wrapped[lines - 1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        wrapped[lines - 1 :] = [last.rstrip(" ,.;") + "..."]
    return wrapped


@cache
def _font(size: int) -> Font:
    """Load the font that comes with Pillow, the same on every machine."""
    return ImageFont.load_default(size)
