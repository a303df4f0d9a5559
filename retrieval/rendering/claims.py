"""What a relative caption claims about a pair of scenes, read back from its words.

One table of clause templates serves both directions: `retrieval.rendering.captions` fills it
in to speak, `read` matches it to understand. So the truth of any sentence of this language,
a neural captioner's new ones included, can be checked against the scenes.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import numpy as np

from retrieval.rendering.palette import SIZES
from retrieval.rendering.scenes import CELLS, COLOR, COLOR_NAMES, SHAPE, SIZE

# What people call things. The first word is the commonest.
NOUNS = {
    "3d": (("cube", "box"), ("ball", "sphere"), ("cylinder",)),
    "2d": (("square", "rectangle"), ("circle", "diamond"), ("triangle",)),
}
ANY_NOUN = ("object", "thing")
SIZE_WORDS = (("small", "little"), ("large", "big"))
COUNT_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_ROWS = (("top", "back"), ("middle",), ("bottom", "front"))
_COLUMNS = (("left",), ("center",), ("right",))


def _place_words() -> dict[str, frozenset[int]]:
    """Every name of a cell, a row or a column, with the cells it covers."""
    words = {}
    for row in range(3):
        for column in range(3):
            for high in _ROWS[row]:
                for wide in _COLUMNS[column]:
                    words[f"{high} {wide}"] = frozenset([row * 3 + column])
        for high in _ROWS[row]:
            words[f"{high} row"] = frozenset(range(row * 3, row * 3 + 3))
    for column in range(3):
        words[f"{_COLUMNS[column][0]} column"] = frozenset(range(column, CELLS, 3))
    del words["middle center"]
    words["center"] = words["very middle"] = frozenset([4])
    return words


PLACE_WORDS = _place_words()

# kind -> templates. {new}, {old}: "red ball"; {a_new}: "a red ball"; {place}: "in the top left";
# {color}: a colour; {noun}, {a_noun}: "ball", "a ball"; {count}: "two"; {news}: "red balls".
# {old} is something that the reference shows: without {place}, only who sees the reference knows
# where it is.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "has": ("has {a_new} {place}", "has {a_new}", "there is {a_new} {place}"),
    "gains": ("has a new {new} {place}", "has an extra {new} {place}", "adds {a_new} {place}"),
    "lacks": ("has no {new} {place}", "there is no {new} {place}"),
    "loses": (
        "the {old} {place} is gone",
        "the {old} {place} is missing",
        "the {old} is gone",
        "the {old} is missing",
    ),
    "empty": ("has nothing {place}", "is empty {place}"),
    "instead": (
        "the {old} {place} is now {a_new}",
        "the one {place} is now {a_new}",
        "the {old} is now {a_new}",
        "the {old} changes to {a_new}",
    ),
    "turns": (
        "the one {place} is {color}",
        "the {noun} {place} is {color}",
        "the {old} is {color}",
        "the {old} turns {color}",
    ),
    "becomes": (
        "the one {place} is {a_noun}",
        "the {color} one {place} is {a_noun}",
        "the {old} is {a_noun}",
        "the {old} turns into {a_noun}",
    ),
    "bigger": (
        "the one {place} is larger",
        "the {old} {place} is larger",
        "the {old} is larger",
        "the {old} is bigger",
    ),
    "smaller": (
        "the one {place} is smaller",
        "the {old} {place} is smaller",
        "the {old} is smaller",
    ),
    "more": ("has more {news}", "there are more {news}"),
    "fewer": ("has fewer {news}", "has less {news}"),
    "count": ("has {count} {news}", "there are {count} {news}"),
    "same": ("looks exactly the same", "is the same picture", "has no difference"),
}


Codes = tuple[int, int, int]
"""Shape, colour and size of a cell or, with 0 for whatever is left open, of a thing spoken of."""
Cells = list[Codes]
"""A scene in plain numbers: the codes of its nine cells."""


def cells_of(scene: np.ndarray) -> Cells:
    """A scene (9, 3) in plain numbers, which are much faster to look at one by one."""
    return list(map(tuple, scene.tolist()))


class Claim(NamedTuple):
    """One clause's meaning: a kind, partial descriptions (codes, 0 = anything) and a place.

    `new` describes something in the target, `old` something in the reference.
    """

    kind: str
    new: Codes = (0, 0, 0)
    old: Codes = (0, 0, 0)
    place: frozenset[int] = frozenset(range(CELLS))
    number: int = 0

    def holds(self, reference: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether the claim is true of pairs of scenes.

        Args:
            reference: scenes (..., 9, 3) on show.
            target: scenes (..., 9, 3) meant; the leading axes broadcast.

        Returns:
            Booleans of the broadcast leading shape.
        """
        cells = sorted(self.place)
        before, after = reference[..., cells, :], target[..., cells, :]
        there, was_there = _matches(self.new, after), _matches(self.new, before)
        was_old = _matches(self.old, before)
        every = np.zeros(np.broadcast_shapes(there.shape, was_there.shape), dtype=bool)[..., 0]
        if self.kind == "has":
            return there.any(-1) | every
        if self.kind == "gains":
            return (there & ~was_there).any(-1)
        if self.kind in ("lacks", "empty"):
            return ~there.any(-1) | every
        if self.kind == "loses":
            return np.asarray(was_old.any(-1) & ~_matches(self.old, after).any(-1))
        if self.kind == "instead":
            return (there & was_old & ~_alike(before, after, SHAPE)).any(-1)
        if self.kind == "turns":
            other = _alike(before, after, SHAPE) & ~_alike(before, after, COLOR)
            return (there & was_old & other).any(-1)
        if self.kind == "becomes":
            other = _alike(before, after, COLOR) & ~_alike(before, after, SHAPE)
            return (there & was_old & other).any(-1)
        if self.kind in ("bigger", "smaller"):
            now, then = (2, 1) if self.kind == "bigger" else (1, 2)
            alike = _alike(before, after, SHAPE) & _alike(before, after, COLOR)
            grown = alike & (after[..., SIZE] == now) & (before[..., SIZE] == then)
            return np.asarray((was_old & grown).any(-1))
        if self.kind == "more":
            return there.sum(-1) > was_there.sum(-1)
        if self.kind == "fewer":
            return there.sum(-1) < was_there.sum(-1)
        if self.kind == "count":
            return (there.sum(-1) == self.number) | every
        return np.asarray((reference == target).all((-1, -2)))  # "same"

    def holds_of(self, before: Cells, after: Cells) -> bool:
        """Whether the claim is true of one pair of scenes: `holds` for those who speak."""
        kind, new, old = self.kind, self.new, self.old
        if kind == "same":
            return before == after
        pairs = [(before[cell], after[cell]) for cell in self.place]
        if kind in ("loses", "more", "fewer", "count", "lacks", "empty", "has"):
            what = old if kind == "loses" else new
            was = sum([_fits(what, then) for then, _ in pairs])
            there = sum([_fits(what, now) for _, now in pairs])
            return {
                "loses": was > 0 and not there, "more": there > was, "fewer": there < was,
                "count": there == self.number, "lacks": not there, "empty": not there,
                "has": there > 0,
            }[kind]  # fmt: skip
        if kind == "gains":
            return any(_fits(new, now) and not _fits(new, then) for then, now in pairs)
        wanted = {"bigger": (1, 2), "smaller": (2, 1)}.get(kind)
        for then, now in pairs:
            if not _fits(old, then) or not (wanted or _fits(new, now)):
                continue
            same = then[SHAPE] == now[SHAPE], then[COLOR] == now[COLOR]
            if (
                (kind == "instead" and not same[0])
                or (kind == "turns" and same == (True, False))
                or (kind == "becomes" and same == (False, True))
                or (wanted == (then[SIZE], now[SIZE]) and all(same))
            ):
                return True
        return False


def _fits(codes: Codes, cell: Codes) -> bool:
    """Whether a cell holds an object that a partial description fits."""
    shape, color, size = codes
    return (
        cell[SHAPE] > 0
        and (not shape or shape == cell[SHAPE])
        and (not color or color == cell[COLOR])
        and (not size or size == cell[SIZE])
    )


def _alike(before: np.ndarray, after: np.ndarray, attribute: int) -> np.ndarray:
    """Where two scenes' cells (..., 3) agree in an attribute."""
    return np.asarray(before[..., attribute] == after[..., attribute])


def _matches(codes: Codes, cells: np.ndarray) -> np.ndarray:
    """Which of the cells (..., 3) hold an object that a partial description fits."""
    fits = cells[..., SHAPE] > 0
    for attribute in (SHAPE, COLOR, SIZE):
        if codes[attribute]:
            fits = fits & (cells[..., attribute] == codes[attribute])
    return fits


def plural(noun: str) -> str:
    """`noun` as several: every noun of the language takes -s or -es."""
    return noun + ("es" if noun.endswith("x") else "s")


def _lexicon() -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Words to codes: nouns of both looks (0 = any shape), colours, sizes."""
    nouns = {word: 0 for word in ANY_NOUN}
    for look in NOUNS.values():
        for code, words in enumerate(look, start=1):
            nouns |= {word: code for word in words}
    nouns |= {plural(word): code for word, code in nouns.items()}
    colors = {name: code for code, name in enumerate(COLOR_NAMES, start=1)}
    sizes = {word: code for code in range(1, len(SIZES) + 1) for word in SIZE_WORDS[code - 1]}
    return nouns, colors, sizes


_NOUNS, _COLORS, _SIZES = _lexicon()


def _either(words: object) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))  # type: ignore[call-overload]


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """The templates as regular expressions with a named group per slot."""
    thing = rf"(?:(?:{_either(_SIZES)}) )?(?:(?:{_either(_COLORS)}) )?(?:{_either(_NOUNS)})"
    slots = {
        "place": rf"(?:(?:in|at|on) the )?(?P<place>{_either(PLACE_WORDS)})",
        "old": f"(?P<old>{thing})",
        "new": f"(?P<new>{thing})",
        "news": f"(?P<new>{thing})",
        "a_new": f"an? (?P<new>{thing})",
        "noun": f"(?P<noun>{_either(_NOUNS)})",
        "a_noun": f"an? (?P<noun>{_either(_NOUNS)})",
        "color": f"(?P<color>{_either(_COLORS)})",
        "count": f"(?P<count>{_either(COUNT_WORDS)})",
    }
    return [
        (kind, re.compile(template.format(**slots)))
        for kind, templates in TEMPLATES.items()
        for template in templates
    ]


def _codes(words: str | None) -> Codes:
    codes = [0, 0, 0]
    for word in (words or "").split():
        for attribute, lexicon in ((SHAPE, _NOUNS), (COLOR, _COLORS), (SIZE, _SIZES)):
            if word in lexicon:
                codes[attribute] = lexicon[word]
    return codes[0], codes[1], codes[2]


@cache
def read_clause(clause: str) -> Claim | None:
    """The claim of one clause, or None if it is not a clause of the language."""
    for kind, pattern in _patterns():
        match = pattern.fullmatch(clause)
        if match is None:
            continue
        slot = match.groupdict()
        new = _codes(
            slot.get("new") or " ".join(filter(None, (slot.get("color"), slot.get("noun"))))
        )
        old = _codes(slot.get("old"))
        place = PLACE_WORDS[slot["place"]] if slot.get("place") else frozenset(range(CELLS))
        count = COUNT_WORDS.index(slot["count"]) if slot.get("count") else 0
        return Claim(kind, new, old, place, count)
    return None


def read(caption: str) -> list[Claim | None]:
    """The claims of a caption, one per clause; None marks a clause that makes no sense.

    Example:
        >>> [claim.kind for claim in read("has a red ball and is missing the small cube")]
        ['has', 'loses']
    """
    return [read_clause(clause) for clause in caption.strip().split(" and ")]


def is_faithful(caption: str, reference: np.ndarray, target: np.ndarray) -> bool:
    """Whether every clause of a caption makes sense and is true of scenes (9, 3)."""
    return all(
        claim is not None and bool(claim.holds(reference, target)) for claim in read(caption)
    )
