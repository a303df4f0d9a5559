"""Relative captions of pairs of scenes, as an annotator would write them.

One or two differences are named, the striking ones more often, in many phrasings. What the
reference tells is left out: "the red ball is blue" says neither where it lies nor, when it
grew as well, how large it is now. When two scenes share nothing, the target is sometimes
described on its own (people do both in the Shoes captions).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from string import Formatter
from typing import NamedTuple

import numpy as np

from retrieval.choices import Draw, drawing, pick, pick_weighted
from retrieval.rendering.claims import (
    ANY_NOUN,
    COUNT_WORDS,
    NOUNS,
    PLACE_WORDS,
    SIZE_WORDS,
    TEMPLATES,
    Cells,
    Claim,
    Codes,
    cells_of,
    plural,
)
from retrieval.rendering.scenes import CELLS, COLOR, COLOR_NAMES, SHAPE, SIZE

MAX_WORDS = 16
ABSOLUTE = 0.15
"""How often two scenes that share nothing bring out a description of the target alone."""
TWO = 0.5
"""How often two differences are named, where there are more."""
HAS, LACKS = 0.3, 0.12
"""How often what is new, or gone, is told as what the target has or lacks."""
BY_LOOKS = 0.75
"""How often a thing that only the reference shows is named by its looks, where these are unique."""
ROUGH, ROW = 0.12, 0.5
"""How often a place is named by its row or column, and how often that is the row."""
WHOLE, SHAPELESS, SIZED = 0.72, 0.18, 0.35
"""How often a description has shape and colour, how often no shape (else no colour), and how often
it has the size."""
COMMONEST = 0.75
"""How often a thing gets the commonest of its names."""
FEWER_WEIGHT, COUNT_WEIGHT = 0.15, 0.4
"""How striking one object more or fewer is, and a number of one colour; cells: `difference_in`."""
DRAWS = 40
"""Uniform numbers that one caption may use: a fixed count, so that what one pair's user says
never depends on the pairs beside it."""

PLACE_NAMES = {
    place: [word for word, cells in PLACE_WORDS.items() if cells == place]
    for place in PLACE_WORDS.values()
}
"""What a set of cells is called."""
PREPOSITIONS = ("in the ", "in the ", "at the ", "on the ")
EVERYWHERE = frozenset(range(CELLS))
PLACE_OF_CELL = [frozenset([cell]) for cell in range(CELLS)]
LINES = [frozenset(range(first, first + 3)) for first in (0, 3, 6)] + [
    frozenset(range(first, CELLS, 3)) for first in range(3)
]


class Difference(NamedTuple):
    """Something true of a pair of scenes that could be said, and how striking it is."""

    kind: str
    new: Codes = (0, 0, 0)
    old: Codes = (0, 0, 0)
    cell: int = -1
    number: int = 0
    weight: float = 1.0


def differences(reference: np.ndarray, target: np.ndarray) -> list[Difference]:
    """What distinguishes a target scene (9, 3) from a reference scene, weighted by strikingness."""
    return _differences(cells_of(reference), cells_of(target))


def _differences(before: Cells, after: Cells) -> list[Difference]:
    found = [
        difference_in(cell, old, new)
        for cell, (old, new) in enumerate(zip(before, after, strict=True))
        if old != new
    ]
    then = [codes[COLOR] for codes in before if codes[SHAPE]]
    now = [codes[COLOR] for codes in after if codes[SHAPE]]
    if len(then) != len(now):
        kind = "more" if len(now) > len(then) else "fewer"
        found.append(Difference(kind, weight=FEWER_WEIGHT * abs(len(now) - len(then))))
    colors = {*now}
    if len(colors) < len(now):
        for color in sorted(colors):
            number = now.count(color)
            if number > 1 and number > then.count(color):
                found.append(
                    Difference("count", new=(0, color, 0), number=number, weight=COUNT_WEIGHT)
                )
    return found


@cache
def difference_in(cell: int, old: Codes, new: Codes) -> Difference:
    """What happens in a cell whose codes change."""
    weight = (1.3 if cell == 4 else 1.0) * (1.6 if 2 in (old[SIZE], new[SIZE]) else 1.0)
    if not old[SHAPE]:
        return Difference("gains", new, cell=cell, weight=1.3 * weight)
    if not new[SHAPE]:
        return Difference("loses", old=old, cell=cell, weight=weight)
    if old[:2] == new[:2]:
        kind = "bigger" if new[SIZE] == 2 else "smaller"
        return Difference(kind, new, old, cell, weight=0.8 * weight)
    if old[SHAPE] == new[SHAPE]:
        return Difference("turns", new, old, cell, weight=1.3 * weight)
    kind = "becomes" if old[COLOR] == new[COLOR] else "instead"
    return Difference(kind, new, old, cell, weight=1.2 * weight)


def relative_caption(
    reference: np.ndarray,
    target: np.ndarray,
    draws: Sequence[float] | np.ndarray,
    look: str = "3d",
) -> str:
    """One sentence of at most 16 words on how a target scene differs from a reference scene.

    Args:
        reference: the scene (9, 3) on show.
        target: the scene (9, 3) meant.
        draws: at least `DRAWS` uniform numbers in [0, 1) that make all choices.
        look: "3d" or "2d", which decides the nouns ("ball" or "circle").

    Returns:
        A sentence all of whose claims are true of the pair (`claims.is_faithful`).
    """
    draw = drawing(draws)
    before, after = cells_of(reference), cells_of(target)
    facts = _differences(before, after)
    if not facts:
        return pick(TEMPLATES["same"], draw)
    occupied = [cell for cell, codes in enumerate(after) if codes[SHAPE]]
    shares = any([before[cell] == after[cell] for cell in occupied])
    if occupied and not shares and draw() < ABSOLUTE:
        facts = [
            Difference("has", after[cell], cell=cell, weight=float(after[cell][SIZE]))
            for cell in occupied
        ]
    if draw() >= TWO:
        return _clause(_pick_fact(facts, draw), before, after, draw, NOUNS[look], brief=False)
    fact = _pick_fact(facts, draw)
    first = _clause(fact, before, after, draw, NOUNS[look], brief=True)
    others = [other for other in facts if other.cell != fact.cell]
    if len(others) < 2:
        return first
    fact = _pick_fact(others, draw)
    sentence = f"{first} and {_clause(fact, before, after, draw, NOUNS[look], brief=True)}"
    return sentence if len(sentence.split()) <= MAX_WORDS else first


def striking_caption(
    reference: np.ndarray,
    target: np.ndarray,
    draws: Sequence[float] | np.ndarray,
    look: str = "3d",
) -> str:
    """Name the most striking difference alone; chance decides the wording, not what is named.

    Of equally striking differences it is the first: cells in reading order, then counts.

    Args:
        reference, target, draws, look: as for `relative_caption`.
    """
    draw = drawing(draws)
    before, after = cells_of(reference), cells_of(target)
    facts = _differences(before, after)
    if not facts:
        return pick(TEMPLATES["same"], draw)
    fact = max(facts, key=lambda fact: fact.weight)
    return _clause(fact, before, after, draw, NOUNS[look], brief=False)


def striking_captions(
    references: np.ndarray, targets: np.ndarray, draws: np.ndarray, look: str = "3d"
) -> list[str]:
    """`striking_caption` of each of B pairs of scenes (B, 9, 3), with draws (B, M)."""
    pairs = zip(references, targets, draws, strict=True)
    return [striking_caption(*pair, look) for pair in pairs]


def _pick_fact(facts: Sequence[Difference], draw: Draw) -> Difference:
    return pick_weighted(facts, [fact.weight for fact in facts], draw)


def _clause(
    fact: Difference,
    before: Cells,
    after: Cells,
    draw: Draw,
    nouns: tuple[tuple[str, ...], ...],
    brief: bool,
) -> str:
    """Say one difference; what is left out never makes the clause untrue."""
    kind, cell = fact.kind, fact.cell
    if kind == "gains" and draw() < HAS:
        kind = "has"
    if kind == "loses" and draw() < LACKS:
        kind = pick(("lacks", "lacks", "empty"), draw)
    # By its looks, which takes the reference to find it, or by its place.
    looks = _looks(before, cell) if draw() < BY_LOOKS else None
    template, slots = pick(options_of(kind, looks is not None, fact.old[SHAPE] > 0), draw)
    claimed = _claim(kind, slots, fact, looks, draw)
    rough = draw() < ROUGH
    line = LINES[cell // 3 if draw() < ROW else 3 + cell % 3]
    if rough and "place" in slots and line in PLACE_NAMES:
        vague = claimed._replace(place=line)
        claimed = vague if vague.holds_of(before, after) else claimed
    if kind in OF_THE_WHOLE and not claimed.holds_of(before, after):
        # a partial description can fit too much
        place = EVERYWHERE
        if cell >= 0:
            place = PLACE_OF_CELL[cell]
            template, slots = next(option for option in templates_of(kind) if "place" in option[1])
        claimed = Claim(kind, fact.new, fact.old, place, fact.number)
    return _spell(template, claimed, fact, draw, nouns, brief)


OF_THE_WHOLE = ("loses", "more", "fewer", "count")
"""Kinds whose claims other cells can make untrue; of the rest the cell that changed is proof."""


@cache
def templates_of(kind: str) -> list[tuple[str, frozenset[str]]]:
    """The templates of a kind with the names of their slots."""
    parts = [(template, Formatter().parse(template)) for template in TEMPLATES[kind]]
    return [
        (template, frozenset(name for _, name, _, _ in parsed if name))
        for template, parsed in parts
    ]


@cache
def options_of(kind: str, by_looks: bool, has_old: bool) -> list[tuple[str, frozenset[str]]]:
    """The templates of a kind that name an object by its looks, or else by its place."""
    options = [
        (template, slots)
        for template, slots in templates_of(kind)
        if "old" not in slots or by_looks != ("place" in slots)
    ]
    if by_looks and any("old" in slots for _, slots in options):
        return [option for option in options if "old" in option[1]]
    if has_old:
        return [option for option in options if "place" in option[1]]
    return options


def _claim(
    kind: str,
    slots: frozenset[str],
    fact: Difference,
    looks: Codes | None,
    draw: Draw,
) -> Claim:
    """What a template will claim of a fact: only what it has slots for."""
    new, old = _partial(fact.new, draw), _partial(fact.old, draw)
    if kind in ("lacks", "empty"):
        new = old if kind == "lacks" else (0, 0, 0)
    elif not slots.isdisjoint(("noun", "a_noun", "color")):
        shape = 0 if slots.isdisjoint(("noun", "a_noun")) else fact.new[SHAPE]
        new = (shape, fact.new[COLOR] if "color" in slots else 0, 0)
    elif slots.isdisjoint(("new", "a_new", "news")):
        new = (0, 0, 0)
    if "old" not in slots:
        old = (0, 0, 0)
    elif looks is not None:
        old = looks
    if kind in ("bigger", "smaller"):
        old = (*old[:2], 0)
    everywhere = "place" not in slots or fact.cell < 0
    return Claim(
        kind, new, old, EVERYWHERE if everywhere else PLACE_OF_CELL[fact.cell], fact.number
    )


def _looks(before: Cells, cell: int) -> Codes | None:
    """The shortest description that fits one object of a scene alone, if there is one."""
    if cell < 0 or not before[cell][SHAPE]:
        return None
    shape, color, size = before[cell]
    alike = [codes for codes in before if codes[COLOR] == color and codes[SHAPE]]
    if len(alike) == 1:
        return 0, color, 0
    alike = [codes for codes in alike if codes[SHAPE] == shape]
    if len(alike) == 1:
        return shape, color, 0
    return (shape, color, size) if alike.count(before[cell]) == 1 else None


def _spell(
    template: str,
    claim: Claim,
    fact: Difference,
    draw: Draw,
    nouns: tuple[tuple[str, ...], ...],
    brief: bool,
) -> str:
    """Fill in a template's slots with words."""
    new, old = _thing(claim.new, draw, nouns), _thing(claim.old, draw, nouns)
    preposition = "" if brief else pick(PREPOSITIONS, draw)
    names = PLACE_NAMES.get(claim.place)
    place = preposition + pick(names, draw) if names else ""
    noun = _noun(claim.new[SHAPE], draw, nouns)
    return template.format(
        new=new,
        news=several(new),
        a_new=with_article(new),
        old=old,
        noun=noun,
        a_noun=with_article(noun),
        color=COLOR_NAMES[fact.new[COLOR] - 1],
        place=place,
        count=COUNT_WORDS[fact.number],
    )


def _thing(codes: Codes, draw: Draw, nouns: tuple[tuple[str, ...], ...]) -> str:
    """A noun with the size and colour that are not left open."""
    shape, color, size = codes
    words = _noun(shape, draw, nouns)
    if color:
        words = f"{COLOR_NAMES[color - 1]} {words}"
    return f"{pick(SIZE_WORDS[size - 1], draw)} {words}" if size else words


def _noun(shape: int, draw: Draw, nouns: tuple[tuple[str, ...], ...]) -> str:
    """The commonest word three times in four."""
    words = nouns[shape - 1] if shape else ANY_NOUN
    return words[0] if draw() < COMMONEST else words[-1]


def _partial(codes: Codes, draw: Draw) -> Codes:
    """Leave out what a hurried speaker would: mostly the size, at times the shape or colour."""
    shape, color, size = codes
    style, sized = draw(), draw() < SIZED
    if not color:
        return codes
    if style >= WHOLE:
        shape, color = (0, color) if style - WHOLE < SHAPELESS else (shape, 0)
    return shape, color, size if sized else 0


@cache
def several(words: str) -> str:
    """A thing as several of its kind."""
    return " ".join([*words.split()[:-1], plural(words.split()[-1])])


@cache
def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words
