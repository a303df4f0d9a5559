"""Relative captions of pairs of products, as a customer would say them.

One or two differences are named, the striking ones more often; what the two share is left out.
How the target compares with the picture on show ("a bit darker", "more patterned") is said as
readily as what it is called, and the more so the more alike the two are in kind: a comparison
means nothing without the reference, which is what makes a dialog about pictures relative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retrieval.catalog.claims import (
    CLEAR,
    COMPARISONS,
    MUCH,
    SAME,
    SLIGHT,
    SLIGHT_AT_MOST,
    TEMPLATES,
    said,
)
from retrieval.catalog.language import Language
from retrieval.catalog.looks import MEASURES
from retrieval.choices import Draw, drawing, pick, pick_weighted
from retrieval.rendering.captions import DRAWS, MAX_WORDS

__all__ = [
    "DRAWS",
    "MAX_WORDS",
    "Difference",
    "differences",
    "instruction",
    "product_caption",
    "striking_product_caption",
]


class Difference(NamedTuple):
    """Something true of a pair of products that could be said, and how striking it is.

    Args:
        kind: "instead", "is" (the reference's is not known), "lacks", "more" or "less".
        column: which of the product's codes.
        weight: how readily it is said.
    """

    kind: str
    column: int
    weight: float


def differences(language: Language, reference: np.ndarray, target: np.ndarray) -> list[Difference]:
    """What distinguishes a target's codes (A,) from a reference's, weighted by strikingness."""
    found = []
    first = language.first_measure
    same_kind, words = True, 0
    changed = (reference[:first] != target[:first]) & (target[:first] > 0)
    for at in np.flatnonzero(changed).tolist():
        column = language.columns[at]
        old, new = _name(language, at, reference), _name(language, at, target)
        is_word = column.manner in ("trait", "part")
        if not new and not old:
            continue
        if is_word and reference[at] == 0:
            continue  # a product without a title does not lack the word
        kind = "lacks" if not new else "instead" if old and not is_word else "is"
        if is_word:
            words += 1
        if column.manner == "noun" and reference[at]:
            same_kind = False
        found.append(Difference(kind, at, column.weight * (0.4 if kind == "lacks" else 1.0)))
    if words > 3:  # a wordy title must not drown everything else
        found = [
            fact._replace(weight=fact.weight * 3 / words)
            if language.columns[fact.column].manner in ("trait", "part")
            else fact
            for fact in found
        ]
    share = 0.8 if same_kind else 0.4
    for at in range(len(MEASURES)):
        change = int(target[first + at]) - int(reference[first + at])
        if abs(change) > SLIGHT:
            striking = min(abs(change), 2 * MUCH) / 1000
            kind = "more" if change > 0 else "less"
            found.append(Difference(kind, first + at, share * striking**2))
    return found


def product_caption(
    language: Language,
    reference: np.ndarray,
    target: np.ndarray,
    draws: Sequence[float] | np.ndarray,
) -> str:
    """One sentence of at most 16 words on how a target differs from a reference.

    Args:
        language: of the catalogue.
        reference: codes (A,) of the product on show.
        target: codes (A,) of the product meant.
        draws: at least `DRAWS` uniform numbers in [0, 1) that make all choices.

    Returns:
        A sentence all of whose claims are true of the pair (`Reader.is_faithful`).
    """
    draw = drawing(draws)
    facts = differences(language, reference, target)
    if not facts:
        return pick(SAME, draw)
    spoken: list[str] = []
    for _ in range(2 if draw() < 0.65 else 1):
        if not facts:
            break
        fact = pick_weighted(facts, [fact.weight for fact in facts], draw)
        spoken.append(_clause(language, fact, reference, target, draw))
        manner = _manner(language, fact.column)
        facts = [other for other in facts if _manner(language, other.column) != manner]
    sentence = " and ".join(spoken)
    return sentence if len(sentence.split()) <= MAX_WORDS else spoken[0]


def striking_product_caption(
    language: Language,
    reference: np.ndarray,
    target: np.ndarray,
    draws: Sequence[float] | np.ndarray,
) -> str:
    """Name the most striking difference alone; chance decides the wording, not what is named.

    Of equally striking differences it is the first in the order of the codes.

    Args:
        language, reference, target, draws: as for `product_caption`.
    """
    draw = drawing(draws)
    facts = differences(language, reference, target)
    if not facts:
        return pick(SAME, draw)
    fact = max(facts, key=lambda fact: fact.weight)
    return _clause(language, fact, reference, target, draw)


def instruction(language: Language, column: int, old: int, new: int) -> str:
    """The command that turns one value into another: "replace black with red".

    Source of the form: Han et al., "Automatic Spatially-Aware Fashion Concept Discovery", ICCV
    2017 (Fashion200k).
    """
    phrases = language.columns[column].phrases
    return f"replace {phrases[old - 1]} with {phrases[new - 1]}"


def _clause(
    language: Language,
    fact: Difference,
    reference: np.ndarray,
    target: np.ndarray,
    draw: Draw,
) -> str:
    """Say one difference."""
    if fact.kind in ("more", "less"):
        measure = MEASURES[fact.column - language.first_measure]
        change = abs(int(target[fact.column]) - int(reference[fact.column]))
        how = pick(measure.more if fact.kind == "more" else measure.less, draw)
        return pick(COMPARISONS[_degree(change, draw)], draw).format(how=how)
    manner = language.columns[fact.column].manner
    kind = fact.kind
    if kind == "instead":
        kind = pick_weighted(("instead", "is", "lacks", "other"), (0.48, 0.25, 0.15, 0.12), draw)
        if kind not in TEMPLATES[manner]:
            kind = "instead"
    old = said(_name(language, fact.column, reference) or "_", manner)
    new = said(_name(language, fact.column, target) or "_", manner)
    return pick(TEMPLATES[manner][kind], draw).format(new=new, old=old)


def _degree(change: int, draw: Draw) -> str:
    """ "much", "slightly" or "": one that is true of the change."""
    hedges = draw() < 0.25
    if change <= CLEAR or (change <= SLIGHT_AT_MOST and hedges):
        return "slightly"
    return "much" if change > MUCH and hedges else ""


def _manner(language: Language, column: int) -> str:
    """What a second clause must not repeat: the manner, or the measure itself."""
    if column >= language.first_measure:
        return MEASURES[column - language.first_measure].name
    return language.columns[column].manner


def _name(language: Language, column: int, product: np.ndarray) -> str:
    """What a product's value of a column is called; "" if it is unknown, or an absent word."""
    code = int(product[column])
    return language.columns[column].phrases[code - 1] if code else ""
