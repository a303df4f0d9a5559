"""What a caption about products claims of a pair, read back from its words.

One table of clause templates serves both directions: `retrieval.catalog.captions` fills it in
to speak, `Reader.read` matches it to understand. So the truth of anything a neural user says of
a catalogue can be checked against the table and the measured pictures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrieval.catalog.looks import MEASURES
from retrieval.catalog.nouns import as_noun

Fact = tuple[int, int]
"""A column of a catalogue's codes and a code in it: "colour is red"."""

PRESENT, ABSENT = 2, 1
"""The codes of a title word; 0, as everywhere, is unknown."""

SLIGHT, CLEAR, MUCH = 250, 400, 1500
"""Differences in a measure, in thousandths of its spread over the train pictures."""
SLIGHT_AT_MOST = 1000

# manner -> kind -> templates. {new}: what the target is; {old}: what the reference is.
TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "noun": {
        "is": ("is {new}", "shows {new}", "look for {new}"),
        "instead": (
            "is {new} instead of {old}",
            "is {new} not {old}",
            "shows {new} rather than {old}",
            "{new} instead of {old}",
        ),
        "lacks": ("is not {old}", "does not show {old}"),
        "other": ("is a different kind of product", "is something else entirely"),
    },
    "color": {
        "is": ("is {new}", "is {new} in color", "comes in {new}", "is {new} colored"),
        "instead": (
            "is {new} instead of {old}",
            "is {new} not {old}",
            "comes in {new} rather than {old}",
        ),
        "lacks": ("is not {old}", "has no {old}"),
        "other": ("is a different color", "comes in another color"),
    },
    "for": {
        "is": ("is for {new}", "is made for {new}"),
        "instead": ("is for {new} instead of {old}", "is for {new} not {old}"),
        "lacks": ("is not for {old}",),
    },
    "plain": {
        "is": ("is {new}", "looks {new}", "is more {new}"),
        "instead": ("is {new} instead of {old}", "is {new} rather than {old}"),
        "lacks": ("is not {old}", "is less {old}"),
    },
    "brand": {
        "is": ("is by {new}", "is from {new}", "has the {new} logo"),
        "instead": ("is by {new} instead of {old}", "is from {new} not {old}"),
        "lacks": ("is not by {old}", "is not from {old}"),
        "other": ("is a different brand", "is from another brand"),
    },
    "trait": {
        "is": ("is {new}", "is the {new} kind", "is more {new}"),
        "instead": ("is {new} instead of {old}", "is {new} not {old}"),
        "lacks": ("is not {old}", "is less {old}"),
    },
    "part": {
        "is": ("has {new}", "comes with {new}"),
        "instead": ("has {new} instead of {old}", "has {new} not {old}"),
        "lacks": ("has no {old}", "is without {old}"),
    },
}
COMPARISONS: dict[str, tuple[str, ...]] = {
    "": ("is {how}", "looks {how}"),
    "much": ("is much {how}", "is a lot {how}"),
    "slightly": ("is slightly {how}", "is a bit {how}", "is a little {how}"),
}
SAME = ("looks the same", "is just like this one", "shows no difference")


@dataclass(frozen=True)
class Claim:
    """One clause's meaning.

    Args:
        kind: "is", "instead", "lacks", "other", "more", "less" or "same".
        new: what the target is said to be: any of these facts (a word may stand for several).
        old: what the reference is, or the target is not: any of these.
        columns: which columns differ ("other") or, as one, which measure ("more", "less");
            all of them for "same".
        degree: of a comparison: "", "much" or "slightly".
        measures: how many of the last columns are measures.
    """

    kind: str
    new: frozenset[Fact] = frozenset()
    old: frozenset[Fact] = frozenset()
    columns: frozenset[int] = frozenset()
    degree: str = ""
    measures: int = len(MEASURES)

    def holds(self, reference: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Whether the claim is true of pairs of products.

        Args:
            reference: codes (..., A) of what is on show.
            target: codes (..., A) of what is meant; the leading axes broadcast.

        Returns:
            Booleans of the broadcast leading shape.
        """
        shape = np.broadcast_shapes(reference.shape[:-1], target.shape[:-1])
        if self.kind in ("more", "less"):
            (column,) = self.columns
            change = target[..., column].astype(np.int64) - reference[..., column]
            return _far_enough(change if self.kind == "more" else -change, self.degree)
        if self.kind == "same":
            return same(reference, target, self.measures)
        if self.kind == "other":
            true = np.zeros(shape, dtype=bool)
            for column in self.columns:
                now, then = target[..., column], reference[..., column]
                true |= (now != then) & (now > 0) & (then > 0)
            return true
        if self.kind == "lacks":
            return np.broadcast_to(_any_other(self.old, target), shape)
        true = np.broadcast_to(_any(self.new, target), shape)
        return true & _any(self.old, reference) if self.kind == "instead" else true


def same(reference: np.ndarray, target: np.ndarray, measures: int) -> np.ndarray:
    """Whether nothing could be said: all known codes agree, all measures are close."""
    facts = slice(None, reference.shape[-1] - measures)
    looks = slice(reference.shape[-1] - measures, None)
    equal = (target[..., facts] == 0) | (target[..., facts] == reference[..., facts])
    change = np.abs(target[..., looks].astype(np.int64) - reference[..., looks])
    return np.asarray(equal.all(-1) & (change <= SLIGHT).all(-1))


def _far_enough(change: np.ndarray, degree: str) -> np.ndarray:
    if degree == "slightly":
        return np.asarray((change > SLIGHT) & (change <= SLIGHT_AT_MOST))
    return np.asarray(change > (MUCH if degree == "much" else CLEAR))


def _any(facts: frozenset[Fact], rows: np.ndarray) -> np.ndarray:
    true = np.zeros(rows.shape[:-1], dtype=bool)
    for column, code in facts:
        true |= rows[..., column] == code
    return true


def _any_other(facts: frozenset[Fact], rows: np.ndarray) -> np.ndarray:
    """Where any of the facts is known not to be so."""
    true = np.zeros(rows.shape[:-1], dtype=bool)
    for column, code in facts:
        true |= (rows[..., column] != code) & (rows[..., column] > 0)
    return true


class Reader:
    """Understands captions about one catalogue.

    Args:
        spoken: manner -> phrase -> the facts it may stand for.
        columns: manner -> columns of that manner.
        first_measure: the column of the first measure.
    """

    def __init__(
        self,
        spoken: dict[str, dict[str, frozenset[Fact]]],
        columns: dict[str, frozenset[int]],
        first_measure: int,
    ):
        self._spoken = {
            manner: {said(phrase, manner): facts for phrase, facts in phrases.items()}
            for manner, phrases in spoken.items()
        }
        self._columns = columns
        self._first = first_measure
        self._known: dict[str, Claim | None] = {}

    def read(self, caption: str) -> list[Claim | None]:
        """The claims of a caption, one per clause; None marks a clause that makes no sense."""
        return [self._read_clause(clause) for clause in caption.strip().split(" and ")]

    def is_faithful(self, caption: str, reference: np.ndarray, target: np.ndarray) -> bool:
        """Whether every clause makes sense and is true of products' codes (A,)."""
        return all(
            claim is not None and bool(claim.holds(reference, target))
            for claim in self.read(caption)
        )

    def _read_clause(self, clause: str) -> Claim | None:
        if clause not in self._known:
            if len(self._known) > 100_000:  # a user who babbles must not fill the memory
                self._known.clear()
            self._known[clause] = self._understand(clause)
        return self._known[clause]

    def _understand(self, clause: str) -> Claim | None:
        if clause in self._whole:
            return self._whole[clause]
        found: Claim | None = None
        for manner, kind, pattern in _PATTERNS:
            match = pattern.fullmatch(clause)
            if match is None:
                continue
            phrases = self._spoken.get(manner, {})
            slots = match.groupdict()
            if not all(words in phrases for words in slots.values()):
                continue
            new = phrases[slots["new"]] if "new" in slots else frozenset()
            old = phrases[slots["old"]] if "old" in slots else frozenset()
            if found is None:
                found = Claim(kind, new, old)
            elif found.kind == kind:  # one word, two manners: any of its meanings may be meant
                found = Claim(kind, found.new | new, found.old | old)
        return found

    @cached_property
    def _whole(self) -> dict[str, Claim]:
        """Clauses without a free slot."""
        known = {clause: Claim("same") for clause in SAME}
        for manner, kinds in TEMPLATES.items():
            for clause in kinds.get("other", ()):
                known[clause] = Claim("other", columns=self._columns.get(manner, frozenset()))
        for at, measure in enumerate(MEASURES, start=self._first):
            for kind, hows in (("more", measure.more), ("less", measure.less)):
                for degree, templates in COMPARISONS.items():
                    claim = Claim(kind, columns=frozenset([at]), degree=degree)
                    known |= {
                        template.format(how=how): claim for template in templates for how in hows
                    }
        return known


def said(phrase: str, manner: str) -> str:
    """A value as its manner says it: kinds as nouns, all else as it is."""
    return as_noun(phrase) if manner == "noun" else phrase


_PATTERNS = [
    (manner, kind, re.compile(template.format(new="(?P<new>.+)", old="(?P<old>.+)")))
    for manner, kinds in TEMPLATES.items()
    for kind, templates in kinds.items()
    for template in templates
    if "{" in template
]
