"""Relative captions of pairs of scenes, as an annotator would write them.

One or two differences are named, the striking ones more often, in many phrasings. What the
reference tells is left out: "the red ball is blue" says neither where it lies nor, when it
grew as well, how large it is now. When two scenes share nothing, the target is sometimes
described on its own (people do both in the Shoes captions).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np

from retrieval.rendering.claims import (
    ANY_NOUN,
    COUNT_WORDS,
    NOUNS,
    PLACE_WORDS,
    SIZE_WORDS,
    TEMPLATES,
    Cells,
    Claim,
    cells_of,
    plural,
)
from retrieval.rendering.scenes import CELLS, COLOR, COLOR_NAMES, SHAPE, SIZE

MAX_WORDS = 16
ABSOLUTE = 0.15
"""How often two scenes that share nothing bring out a description of the target alone."""
DRAWS = 40
"""Uniform numbers that one caption may use: a fixed count, so that what one pair's user says
never depends on the pairs beside it."""

PLACE_NAMES = {
    place: [word for word, cells in PLACE_WORDS.items() if cells == place]
    for place in PLACE_WORDS.values()
}
"""What a set of cells is called."""
_EVERYWHERE = frozenset(range(CELLS))
_LINES = [frozenset(range(first, first + 3)) for first in (0, 3, 6)] + [
    frozenset(range(first, CELLS, 3)) for first in range(3)
]

T = TypeVar("T")


class Difference(NamedTuple):
    """Something true of a pair of scenes that could be said, and how striking it is."""

    kind: str
    new: tuple[int, int, int] = (0, 0, 0)
    old: tuple[int, int, int] = (0, 0, 0)
    cell: int = -1
    number: int = 0
    weight: float = 1.0


class Chance:
    """Choices made from a fixed row of uniform numbers."""

    def __init__(self, draws: Sequence[float] | np.ndarray):
        # plain numbers: NumPy's own take several times as long one by one
        self._draws: Iterator[float] = iter(
            draws.tolist() if isinstance(draws, np.ndarray) else draws
        )

    def below(self, probability: float) -> bool:
        return next(self._draws) < probability

    def pick(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        if weights is None:
            return options[int(next(self._draws) * len(options))]
        at = next(self._draws) * sum(weights)
        for place, weight in enumerate(weights):
            at -= weight
            if at < 0:
                return options[place]
        return options[-1]


def differences(reference: np.ndarray, target: np.ndarray) -> list[Difference]:
    """What distinguishes a target scene (9, 3) from a reference scene, weighted by strikingness."""
    return _differences(cells_of(reference), cells_of(target))


def _differences(before: Cells, after: Cells) -> list[Difference]:
    found = []
    for cell, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            continue
        weight = (1.3 if cell == 4 else 1.0) * (1.6 if 2 in (old[SIZE], new[SIZE]) else 1.0)
        if not old[SHAPE]:
            found.append(Difference("gains", new, cell=cell, weight=1.3 * weight))
        elif not new[SHAPE]:
            found.append(Difference("loses", old=old, cell=cell, weight=weight))
        elif old[:2] == new[:2]:
            kind = "bigger" if new[SIZE] == 2 else "smaller"
            found.append(Difference(kind, new, old, cell, weight=0.8 * weight))
        elif old[SHAPE] == new[SHAPE]:
            found.append(Difference("turns", new, old, cell, weight=1.3 * weight))
        elif old[COLOR] == new[COLOR]:
            found.append(Difference("becomes", new, old, cell, weight=1.2 * weight))
        else:
            found.append(Difference("instead", new, old, cell, weight=1.2 * weight))
    then, now = ([codes[COLOR] for codes in cells if codes[SHAPE]] for cells in (before, after))
    if len(then) != len(now):
        kind = "more" if len(now) > len(then) else "fewer"
        found.append(Difference(kind, weight=0.15 * abs(len(now) - len(then))))
    for color in sorted({*now}):
        number = now.count(color)
        if number > 1 and number > then.count(color):
            found.append(Difference("count", new=(0, color, 0), number=number, weight=0.4))
    return found


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
    chance = Chance(draws)
    before, after = cells_of(reference), cells_of(target)
    facts = _differences(before, after)
    if not facts:
        return chance.pick(TEMPLATES["same"])
    occupied = [cell for cell, codes in enumerate(after) if codes[SHAPE]]
    shares = any(before[cell] == after[cell] for cell in occupied)
    if occupied and not shares and chance.below(ABSOLUTE):
        facts = [
            Difference("has", after[cell], cell=cell, weight=float(after[cell][SIZE]))
            for cell in occupied
        ]
    clauses: list[str] = []
    count = 2 if chance.below(0.5) else 1
    for wanted in range(count):
        if wanted < len(facts) or not clauses:
            fact = chance.pick(facts, [fact.weight for fact in facts])
            facts = [other for other in facts if other.cell != fact.cell]
            clauses.append(_clause(fact, before, after, chance, NOUNS[look], count > 1))
        if not facts:
            break
    sentence = " and ".join(clauses)
    return sentence if len(sentence.split()) <= MAX_WORDS else clauses[0]


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
    chance = Chance(draws)
    before, after = cells_of(reference), cells_of(target)
    facts = _differences(before, after)
    if not facts:
        return chance.pick(TEMPLATES["same"])
    fact = max(facts, key=lambda fact: fact.weight)
    return _clause(fact, before, after, chance, NOUNS[look], brief=False)


def _clause(
    fact: Difference,
    before: Cells,
    after: Cells,
    chance: Chance,
    nouns: tuple[tuple[str, ...], ...],
    brief: bool,
) -> str:
    """Say one difference; what is left out never makes the clause untrue."""
    kind = fact.kind
    if kind == "gains" and chance.below(0.3):
        kind = "has"
    if kind == "loses" and chance.below(0.12):
        kind = chance.pick(["lacks", "lacks", "empty"])
    # By its looks, which takes the reference to find it, or by its place.
    looks = _looks(before, fact.cell)
    by_looks = chance.below(0.75) and looks is not None
    template = chance.pick(_options(kind, by_looks, fact.old[SHAPE] > 0))
    claimed = _claim(kind, template, fact, looks if by_looks else None, chance)
    rough = chance.below(0.12)
    line = _line(fact.cell, chance)
    if rough and "{place}" in template and line in PLACE_NAMES:
        vague = Claim(claimed.kind, claimed.new, claimed.old, line, claimed.count)
        claimed = vague if vague.holds_of(before, after) else claimed
    if not claimed.holds_of(before, after):  # a partial description can fit too much
        kind, place = fact.kind, _EVERYWHERE
        if fact.cell >= 0:
            place = frozenset([fact.cell])
            template = next(option for option in TEMPLATES[kind] if "{place}" in option)
        claimed = Claim(kind, fact.new, fact.old, place, fact.number)
    return _spell(template, claimed, fact, chance, nouns, brief)


@cache
def _options(kind: str, by_looks: bool, has_old: bool) -> list[str]:
    """The templates of a kind that name an object by its looks, or else by its place."""
    options = [
        template
        for template in TEMPLATES[kind]
        if "{old}" not in template or by_looks != ("{place}" in template)
    ]
    if by_looks and any("{old}" in template for template in options):
        return [template for template in options if "{old}" in template]
    if has_old:
        return [template for template in options if "{place}" in template]
    return options


def _claim(
    kind: str,
    template: str,
    fact: Difference,
    looks: tuple[int, int, int] | None,
    chance: Chance,
) -> Claim:
    """What a template will claim of a fact: only what it has slots for."""
    new, old = _partial(fact.new, chance), _partial(fact.old, chance)
    if kind in ("lacks", "empty"):
        new = old if kind == "lacks" else (0, 0, 0)
    elif "{noun}" in template or "{a_noun}" in template or "{color}" in template:
        shape = fact.new[SHAPE] if "noun}" in template else 0
        new = (shape, fact.new[COLOR] if "{color}" in template else 0, 0)
    elif "new" not in template:
        new = (0, 0, 0)
    if "old}" not in template:
        old = (0, 0, 0)
    elif looks is not None:
        old = looks
    if kind in ("bigger", "smaller"):
        old = (*old[:2], 0)
    everywhere = "{place}" not in template or fact.cell < 0
    place = _EVERYWHERE if everywhere else frozenset([fact.cell])
    return Claim(kind, new, old, place, fact.number)


def _looks(before: Cells, cell: int) -> tuple[int, int, int] | None:
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


def _line(cell: int, chance: Chance) -> frozenset[int]:
    """The row or the column that a cell lies in."""
    row, column = divmod(cell, 3)
    return _LINES[row] if chance.below(0.5) else _LINES[3 + column]


def _spell(
    template: str,
    claim: Claim,
    fact: Difference,
    chance: Chance,
    nouns: tuple[tuple[str, ...], ...],
    brief: bool,
) -> str:
    """Fill in a template's slots with words."""
    new, old = _thing(claim.new, chance, nouns), _thing(claim.old, chance, nouns)
    names = PLACE_NAMES.get(claim.place)
    preposition = "" if brief else chance.pick(("in the ", "in the ", "at the ", "on the "))
    place = preposition + chance.pick(names) if names else ""
    noun = _noun(claim.new[SHAPE], chance, nouns)
    return template.format(
        new=new,
        news=_several(new),
        a_new=_with_article(new),
        old=old,
        a_old=_with_article(old),
        noun=noun,
        a_noun=_with_article(noun),
        color=COLOR_NAMES[fact.new[COLOR] - 1],
        place=place,
        count=COUNT_WORDS[fact.number],
    )


def _thing(codes: tuple[int, int, int], chance: Chance, nouns: tuple[tuple[str, ...], ...]) -> str:
    """A noun with the size and colour that are not left open."""
    words = [_noun(codes[SHAPE], chance, nouns)]
    if codes[COLOR]:
        words.insert(0, COLOR_NAMES[codes[COLOR] - 1])
    if codes[SIZE]:
        words.insert(0, chance.pick(SIZE_WORDS[codes[SIZE] - 1]))
    return " ".join(words)


def _noun(shape: int, chance: Chance, nouns: tuple[tuple[str, ...], ...]) -> str:
    words = nouns[shape - 1] if shape else ANY_NOUN
    return chance.pick(words, [3.0, 1.0][: len(words)])


def _partial(codes: tuple[int, int, int], chance: Chance) -> tuple[int, int, int]:
    """Leave out what a hurried speaker would: mostly the size, at times the shape or colour."""
    shape, color, size = codes
    style = chance.pick(("full", "color", "shape"), (0.72, 0.18, 0.10))
    said_size = size if chance.below(0.35) else 0
    if not color:
        return codes
    return (0 if style == "color" else shape, 0 if style == "shape" else color, said_size)


@cache
def _several(words: str) -> str:
    """A thing as several of its kind."""
    return " ".join([*words.split()[:-1], plural(words.split()[-1])])


@cache
def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words
