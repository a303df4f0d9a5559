"""`captions.relative_caption` for many pairs of scenes at once, word for word the same.

One choice after another is made for all pairs together, in arrays; `captions` says what is chosen
and why. A few hundred pairs take less than half the time, and sentences are a good part of a turn
of the batch environment.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from retrieval.rendering.captions import (
    ABSOLUTE,
    BY_LOOKS,
    COMMONEST,
    COUNT_WEIGHT,
    DRAWS,
    EVERYWHERE,
    FEWER_WEIGHT,
    HAS,
    LACKS,
    LINES,
    MAX_WORDS,
    OF_THE_WHOLE,
    PLACE_NAMES,
    PLACE_OF_CELL,
    PREPOSITIONS,
    ROUGH,
    ROW,
    SHAPELESS,
    SIZED,
    TWO,
    WHOLE,
    difference_in,
    options_of,
    relative_caption,
    several,
    templates_of,
    with_article,
)
from retrieval.rendering.claims import (
    ANY_NOUN,
    COUNT_WORDS,
    NOUNS,
    SIZE_WORDS,
    TEMPLATES,
)
from retrieval.rendering.scenes import CELLS, COLOR, COLOR_NAMES, SHAPE, SIZE, VALUES

FEW = 64
"""Pairs up to which one by one is faster."""
KINDS = tuple(kind for kind in TEMPLATES if kind != "same")
_KIND = {kind: number for number, kind in enumerate(KINDS)}
_BASE = tuple(len(names) + 1 for names in VALUES)
_PACKED = np.array([_BASE[1] * _BASE[2], _BASE[2], 1])  # codes of a cell to one number
_COLORS = np.arange(1, _BASE[1])
_COUNTS_FROM = CELLS + 1  # columns of facts: cells, the number of objects, that of each colour
_PLACES = [*PLACE_OF_CELL, *LINES, EVERYWHERE]
_LINES_FROM, _NO_PLACE = CELLS, len(_PLACES) - 1
_SIZE_WORDS = ("", *(word for words in SIZE_WORDS for word in words))


class _Facts(NamedTuple):
    """What could be said of each of B pairs, in columns (B, F); weight 0 where nothing can."""

    weight: np.ndarray
    kind: np.ndarray  # numbers of KINDS
    number: np.ndarray  # of objects, where the kind is "count"


class _Clauses(NamedTuple):
    """One fact of each of n pairs, about to be said."""

    before: np.ndarray  # (n, 9, 3), as are the codes below (n, 3)
    after: np.ndarray
    kind: np.ndarray  # (n,), as is all else
    cell: np.ndarray  # -1: none
    new: np.ndarray
    old: np.ndarray
    number: np.ndarray
    brief: np.ndarray


class _Rows:
    """Uniform numbers (B, M), taken row by row in order."""

    def __init__(self, draws: np.ndarray, at: np.ndarray):
        self._flat = draws.ravel()
        self.at = at  # (B,), where each row's next number lies

    def next(self, taken: np.ndarray | int = 1) -> np.ndarray:
        """The next number of each row; rows that are not `taken` see it again."""
        found = self._flat.take(self.at, mode="clip")
        self.at = self.at + taken
        return found

    def pick(self, options: np.ndarray | int, taken: np.ndarray | int = 1) -> np.ndarray:
        """A place among so many options."""
        return (self.next(taken) * options).astype(np.int64)

    def of(self, rows: np.ndarray) -> _Rows:
        """Some rows alone."""
        return _Rows(self._flat, self.at[rows])


def relative_captions(
    references: np.ndarray, targets: np.ndarray, draws: np.ndarray, look: str = "3d"
) -> list[str]:
    """`captions.relative_caption` of each of B pairs.

    Args:
        references: the scenes (B, 9, 3) on show.
        targets: the scenes (B, 9, 3) meant.
        draws: uniform numbers (B, M) in [0, 1), M at least `captions.DRAWS`.
        look: "3d" or "2d".

    Raises:
        ValueError: not as many references, targets and rows of draws, or too few draws in a row.
    """
    if not len(references) == len(targets) == len(draws) or draws.shape[1] < DRAWS:
        raise ValueError(
            f"expected as many targets as the {len(references)} pairs of scenes have references, "
            f"and {len(references)} rows of at least {DRAWS} draws, got {len(targets)} targets and "
            f"draws {draws.shape}"
        )
    if len(draws) <= FEW:
        return [
            relative_caption(*pair, look) for pair in zip(references, targets, draws, strict=True)
        ]
    said = [""] * len(draws)
    alike = (references == targets).all((1, 2))
    for row in np.flatnonzero(alike):
        said[row] = relative_caption(references[row], targets[row], draws[row], look)
    rows = np.flatnonzero(~alike)
    chance = _Rows(draws, rows * draws.shape[1])
    before, after = references[rows].astype(np.int64), targets[rows].astype(np.int64)
    facts = _facts(before, after)
    facts = _absolute(facts, before, after, chance)
    two = chance.next() < TWO
    column = _picked(facts.weight, chance)
    first = _say(_clauses(facts, before, after, column, two), chance, look)
    same_cell = np.arange(facts.weight.shape[1]) == column[:, None]
    same_cell[column >= CELLS, CELLS:] = True
    weight = np.where(same_cell, 0, facts.weight)
    more = np.flatnonzero(two & (np.count_nonzero(weight, axis=1) > 1))
    chance, facts = chance.of(more), _Facts(*(table[more] for table in facts))
    column = _picked(weight[more], chance)
    clauses = _clauses(facts, before[more], after[more], column, np.ones(len(more), bool))
    second = _say(clauses, chance, look)
    for row, clause in zip(rows.tolist(), first, strict=True):
        said[row] = clause
    for row, clause in zip(rows[more].tolist(), second, strict=True):
        sentence = f"{said[row]} and {clause}"
        if sentence.count(" ") < MAX_WORDS:
            said[row] = sentence
    return said


def _facts(before: np.ndarray, after: np.ndarray) -> _Facts:
    """The differences of pairs of scenes (B, 9, 3) that are not alike."""
    then, now = before @ _PACKED, after @ _PACKED  # (B, 9)
    weights, kinds = _changes()
    cells = np.arange(CELLS)
    weight, kind = weights[cells, then, now], kinds[cells, then, now]  # 0 where they are alike
    had, has = _of_colors(before), _of_colors(after)  # (B, 8)
    added = has.sum(1) - had.sum(1)  # (B,)
    counted = (has > 1) & (has > had)
    return _Facts(
        np.column_stack([weight, FEWER_WEIGHT * np.abs(added), COUNT_WEIGHT * counted]),
        np.column_stack([
            kind,
            np.where(added > 0, _KIND["more"], _KIND["fewer"]),
            np.full_like(has, _KIND["count"]),
        ]),
        np.column_stack([np.zeros((len(has), _COUNTS_FROM), np.int64), has]),
    )  # fmt: skip


@cache
def _changes() -> tuple[np.ndarray, np.ndarray]:
    """Weights and kinds (9, C, C) of what happens in a cell that holds one thing, then another."""
    things = [
        (shape, color, size)
        for shape in range(1, _BASE[SHAPE])
        for color in range(1, _BASE[COLOR])
        for size in range(1, _BASE[SIZE])
    ]
    number = {codes: int(np.dot(codes, _PACKED)) for codes in [(0, 0, 0), *things]}
    weights = np.zeros((CELLS, _BASE[0] * _PACKED[0], _BASE[0] * _PACKED[0]))
    kinds = np.zeros(weights.shape, np.int64)
    for cell in range(CELLS):
        for old in number:
            for new in number:
                if old != new:
                    fact = difference_in(cell, old, new)
                    weights[cell, number[old], number[new]] = fact.weight
                    kinds[cell, number[old], number[new]] = _KIND[fact.kind]
    return weights, kinds


def _of_colors(scenes: np.ndarray) -> np.ndarray:
    """How many objects of each colour (B, 8) are in scenes (B, 9, 3)."""
    return (scenes[..., COLOR, None] == _COLORS).sum(1)


def _absolute(facts: _Facts, before: np.ndarray, after: np.ndarray, chance: _Rows) -> _Facts:
    """Where two scenes share nothing, at times what the target has instead of what differs."""
    occupied = after[..., SHAPE] > 0  # (B, 9)
    shared = (occupied & (before == after).all(-1)).any(1)
    could = occupied.any(1) & ~shared
    rows = np.flatnonzero(could & (chance.next(could) < ABSOLUTE))
    facts.weight[rows] = 0
    facts.weight[rows, :CELLS] = np.where(occupied[rows], after[rows, :, SIZE], 0)
    facts.kind[rows, :CELLS] = _KIND["has"]
    return facts


def _picked(weight: np.ndarray, chance: _Rows) -> np.ndarray:
    """A column (B,) of each row, by weights (B, F)."""
    total = weight.cumsum(1)[:, -1]  # one after another: numbers add up as they do one by one
    left = np.subtract.accumulate(np.column_stack([chance.next() * total, weight]), axis=1)[:, 1:]
    below = left < 0
    last = weight.shape[1] - 1 - (weight[:, ::-1] > 0).argmax(1)
    return np.where(below.any(1), below.argmax(1), last)


def _clauses(
    facts: _Facts, before: np.ndarray, after: np.ndarray, column: np.ndarray, brief: np.ndarray
) -> _Clauses:
    """The facts in those columns (B,)."""
    rows = np.arange(len(column))
    kind, number = facts.kind[rows, column], facts.number[rows, column]
    cell = np.where(column < CELLS, column, -1)
    new, old = after[rows, cell], before[rows, cell]
    new[cell < 0] = old[cell < 0] = 0
    new[:, COLOR] += np.where(kind == _KIND["count"], column - _COUNTS_FROM + 1, 0)
    old[kind == _KIND["has"]] = 0
    return _Clauses(before, after, kind, cell, new, old, number, brief)


def _say(clauses: _Clauses, chance: _Rows, look: str) -> list[str]:
    """`captions._clause`, step for step."""
    before, after, kind, cell, told_new, told_old, number, brief = clauses
    gains, loses = kind == _KIND["gains"], kind == _KIND["loses"]
    first = chance.next(gains | loses)
    kind = np.where(gains & (first < HAS), _KIND["has"], kind)
    absent = loses & (first < LACKS)
    how = chance.pick(3, absent)
    kind = np.where(absent, np.where(how < 2, _KIND["lacks"], _KIND["empty"]), kind)
    looks, alone = _looks(before, cell)
    by_looks = (chance.next() < BY_LOOKS) & alone
    forms = _forms()
    chosen = kind, by_looks.astype(np.int64), (told_old[:, SHAPE] > 0).astype(np.int64)
    form = forms.numbers[chosen][np.arange(len(kind)), chance.pick(forms.counts[chosen])]  # (n,)
    new, old = _partial(told_new, chance), _partial(told_old, chance)
    _keep_what_has_a_slot(forms, form, kind, told_new, new, old)
    old = np.where((forms.old[form] & by_looks)[:, None], looks, old)
    grows = (kind == _KIND["bigger"]) | (kind == _KIND["smaller"])
    old[grows, SIZE] = 0
    placed = forms.place[form] & (cell >= 0)
    place = np.where(placed, cell, _NO_PLACE)
    rough = chance.next() < ROUGH
    line = np.where(chance.next() < ROW, cell // 3, 3 + cell % 3)

    said = _Said(kind, new, old, number, before, after)
    rows = np.flatnonzero(rough & placed)
    rows = rows[_hold(said.of(rows), _LINES_FROM + line[rows])]
    place[rows] = _LINES_FROM + line[rows]
    rows = np.flatnonzero(forms.of_the_whole[kind] & (place == _NO_PLACE))
    rows = rows[~_hold(said.of(rows), place[rows])]  # of all else its own cell is the proof
    new[rows], old[rows] = told_new[rows], told_old[rows]
    rows = rows[cell[rows] >= 0]
    place[rows], form[rows] = cell[rows], forms.first_placed[kind[rows]]
    return _spelled(form, new, old, place, told_new[:, COLOR], number, brief, chance, look)


class _Said(NamedTuple):
    """What n clauses say of their pairs, as `claims.Claim` does of one."""

    kind: np.ndarray
    new: np.ndarray
    old: np.ndarray
    number: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def of(self, rows: np.ndarray) -> _Said:
        """Some of them."""
        return _Said(*(table[rows] for table in self))


def _hold(said: _Said, place: np.ndarray) -> np.ndarray:
    """`Claim.holds_of` of each claim and its own pair, with places (n,): truths (n,)."""
    kind, new, old, number, before, after = said
    inside = _INSIDE[place]  # (n, 9)
    was, there = _fits(new, before) & inside, _fits(new, after) & inside
    old_was, old_there = _fits(old, before) & inside, _fits(old, after) & inside
    counts, then = there.sum(1), was.sum(1)
    same = before == after  # (n, 9, 3)
    shape, color = same[..., SHAPE], same[..., COLOR]
    grown = shape & color & ~same[..., SIZE] & old_was
    larger = after[..., SIZE] > before[..., SIZE]
    truths = {
        "has": counts > 0,
        "gains": (there & ~was).any(1),
        "lacks": counts == 0,
        "empty": counts == 0,
        "loses": old_was.any(1) & ~old_there.any(1),
        "instead": (old_was & there & ~shape).any(1),
        "turns": (old_was & there & shape & ~color).any(1),
        "becomes": (old_was & there & color & ~shape).any(1),
        "bigger": (grown & larger).any(1),
        "smaller": (grown & ~larger).any(1),
        "more": counts > then,
        "fewer": counts < then,
        "count": counts == number,
    }
    return np.stack([truths[name] for name in KINDS])[kind, np.arange(len(kind))]


_INSIDE = np.array([[cell in place for cell in range(CELLS)] for place in _PLACES])


def _fits(codes: np.ndarray, scenes: np.ndarray) -> np.ndarray:
    """Which cells (n, 9) of scenes (n, 9, 3) hold something that descriptions (n, 3) fit."""
    agrees = (codes[:, None] == 0) | (codes[:, None] == scenes)
    return np.asarray(agrees.all(-1) & (scenes[..., SHAPE] > 0))


def _looks(before: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shortest descriptions (n, 3) that fit one object alone, and whether there is one (n,)."""
    thing = before[np.arange(len(cell)), cell]  # (n, 3)
    agrees = before == thing[:, None]  # (n, 9, 3)
    color = agrees[..., COLOR] & (before[..., SHAPE] > 0)
    shape = color & agrees[..., SHAPE]
    size = shape & agrees[..., SIZE]
    fit_color, fit_shape, fit_size = (fits.sum(1) for fits in (color, shape, size))
    looks = thing.copy()
    looks[fit_shape == 1, SIZE] = 0
    looks[fit_color == 1, SHAPE] = 0
    looks[fit_color == 1, SIZE] = 0
    alone = (cell >= 0) & (thing[:, SHAPE] > 0) & (fit_size == 1)
    return looks, alone


def _partial(codes: np.ndarray, chance: _Rows) -> np.ndarray:
    """`captions._partial` of codes (n, 3)."""
    style, sized = chance.next(), chance.next() < SIZED
    leaves = style >= WHOLE
    no_shape = leaves & (style - WHOLE < SHAPELESS)
    said = codes.copy()
    known = codes[:, COLOR] > 0
    said[known & no_shape, SHAPE] = 0
    said[known & leaves & ~no_shape, COLOR] = 0
    said[known & ~sized, SIZE] = 0
    return said


class _Forms(NamedTuple):
    """The templates as tables, by their numbers; `pattern` has numbered slots."""

    pattern: list[str]
    numbers: np.ndarray  # (kinds, by looks, has old, choices)
    counts: np.ndarray  # (kinds, by looks, has old): how many choices
    place: np.ndarray  # (templates,): whether it has the slot, as have the next
    old: np.ndarray
    new: np.ndarray
    noun: np.ndarray
    color: np.ndarray
    first_placed: np.ndarray  # (kinds,)
    of_the_whole: np.ndarray  # (kinds,)


_SLOTS = ("new", "a_new", "news", "old", "place", "noun", "a_noun", "color", "count")


@cache
def _forms() -> _Forms:
    every = [option for kind in KINDS for option in templates_of(kind)]
    numbers = np.zeros((len(KINDS), 2, 2, max(map(len, TEMPLATES.values()))), np.int64)
    counts = np.zeros(numbers.shape[:-1], np.int64)
    for kind, by_looks, has_old in np.ndindex(counts.shape):
        options = options_of(KINDS[kind], bool(by_looks), bool(has_old))
        counts[kind, by_looks, has_old] = len(options)
        numbers[kind, by_looks, has_old, : len(options)] = list(map(every.index, options))
    placed = [
        next((option for option in templates_of(kind) if "place" in option[1]), every[0])
        for kind in KINDS
    ]

    def have(*wanted: str) -> np.ndarray:
        return np.array([not slots.isdisjoint(wanted) for _, slots in every])

    return _Forms(
        [text.format(**{name: f"{{{at}}}" for at, name in enumerate(_SLOTS)}) for text, _ in every],
        numbers,
        counts,
        place=have("place"),
        old=have("old"),
        new=have("new", "a_new", "news"),
        noun=have("noun", "a_noun"),
        color=have("color"),
        first_placed=np.array(list(map(every.index, placed))),
        of_the_whole=np.isin(KINDS, OF_THE_WHOLE),
    )


def _keep_what_has_a_slot(
    forms: _Forms,
    form: np.ndarray,
    kind: np.ndarray,
    told_new: np.ndarray,
    new: np.ndarray,
    old: np.ndarray,
) -> None:
    """`captions._claim`: change descriptions (n, 3) into what templates (n,) will say."""
    noun, color = forms.noun[form], forms.color[form]
    worded = noun | color
    none = ~worded & ~forms.new[form]
    new[worded | none] = 0
    new[noun, SHAPE] = told_new[noun, SHAPE]
    new[color, COLOR] = told_new[color, COLOR]
    lacks = kind == _KIND["lacks"]
    new[lacks] = old[lacks]
    new[kind == _KIND["empty"]] = 0
    old[~forms.old[form]] = 0


class _Words(NamedTuple):
    """What things are called in a look, as tables."""

    nouns: np.ndarray  # (shapes, 2)
    things: np.ndarray  # (shapes, 2, colours, size words)
    few: np.ndarray  # with an article, as are nouns
    many: np.ndarray  # in the plural
    a_noun: np.ndarray


@cache
def _words(look: str) -> _Words:
    nouns = np.array([[words[0], words[-1]] for words in (ANY_NOUN, *NOUNS[look])], dtype=object)
    things = np.empty((*nouns.shape, _BASE[COLOR], len(_SIZE_WORDS)), dtype=object)
    for shape, other, color, size in np.ndindex(things.shape):
        words = (_SIZE_WORDS[size], ("", *COLOR_NAMES)[color], nouns[shape, other])
        things[shape, other, color, size] = " ".join(filter(None, words))
    some, many = (np.vectorize(make, otypes=[object]) for make in (with_article, several))
    return _Words(nouns, things, some(things), many(things), some(nouns))


@cache
def _places() -> tuple[np.ndarray, np.ndarray]:
    """How many names a place has (P,), and these after nothing or a preposition (P, 5, names)."""
    names = [PLACE_NAMES.get(place, [""]) for place in _PLACES]
    counts = np.array([len(PLACE_NAMES.get(place, [])) for place in _PLACES])
    table = np.full((len(names), 5, max(map(len, names))), "", dtype=object)
    for place, said in enumerate(names):
        for at, name in enumerate(said):
            for how, preposition in enumerate(("", *PREPOSITIONS)):
                table[place, how, at] = preposition + name if name else ""
    return counts, table


def _spelled(
    form: np.ndarray,
    new: np.ndarray,
    old: np.ndarray,
    place: np.ndarray,
    color: np.ndarray,
    number: np.ndarray,
    brief: np.ndarray,
    chance: _Rows,
    look: str,
) -> list[str]:
    """`captions._spell` of descriptions (n, 3), places, told colours and numbers (n,)."""
    words = _words(look)

    def thing(codes: np.ndarray) -> tuple[np.ndarray, ...]:
        other = (chance.next() >= COMMONEST).astype(np.int64)
        size = codes[:, SIZE]
        word = np.where(size > 0, 2 * size - 1 + chance.pick(2, size > 0), 0)
        return codes[:, SHAPE], other, codes[:, COLOR], word

    is_new, was = thing(new), thing(old)
    counts, names = _places()
    how = np.where(brief, 0, 1 + chance.pick(4, ~brief))
    count = counts[place]
    where = names[place, how, chance.pick(count, count > 0)]
    noun = new[:, SHAPE], (chance.next() >= COMMONEST).astype(np.int64)
    slots = (
        words.things[is_new], words.few[is_new], words.many[is_new], words.things[was], where,
        words.nouns[noun], words.a_noun[noun], np.array(COLOR_NAMES, dtype=object)[color - 1],
        np.array(COUNT_WORDS, dtype=object)[number],
    )  # fmt: skip
    patterns = [_forms().pattern[at] for at in form.tolist()]
    return list(map(str.format, patterns, *slots))
