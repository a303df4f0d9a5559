"""What can be said about a catalogue: its columns, brands, title words and measures, as codes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrieval.catalog.claims import ABSENT, PRESENT, Claim, Fact, Reader
from retrieval.catalog.looks import MEASURES
from retrieval.catalog.nouns import COLOR_WORDS, WEARERS, singular, stem, word_set
from retrieval.catalog.roles import MOST_WORDS, Cast, phrase

MOST_TITLE_WORDS = 150
_DULL = word_set(
    """
    a an and are at by for from in is it its men of on or pack pc pcs per pieces set size
    sizes the this to with women x xl xs
    """
)
_KIND_HINTS = word_set(
    """
    article articletype category class department family genre group item kind line product
    section type
    """
)
_BRAND_HINTS = word_set(
    """
    brand brands designer label make maker manufacturer vendor
    """
)


@dataclass(frozen=True)
class Column:
    """Something that is known of products, as one code each.

    Args:
        name: of the table's column; "brand" or the word itself for what a title tells.
        manner: how it is said, a key of `retrieval.catalog.claims.TEMPLATES`.
        phrases: what each code from 1 on is called; "" is not said.
        weight: how readily people speak of a difference in it.
        forms: of a title word, all its forms ("check", "checked").
    """

    name: str
    manner: str
    phrases: tuple[str, ...]
    weight: float = 1.0
    forms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Language:
    """How products are written as codes and spoken of.

    A product's codes (A,) are its columns' (0 = unknown), then the measures of its picture in
    thousandths of their spread over the train pictures, from their mean.

    Args:
        columns: what is known, title words last.
        centre, spread: of each measure over the train pictures (M,).
        source: the table's columns that `encode` reads, in order.
        title: the table's title column, or None.
        has_brand: whether the brand is read off the title.
    """

    columns: tuple[Column, ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    source: tuple[str, ...]
    title: str | None = None
    has_brand: bool = False

    @property
    def first_measure(self) -> int:
        """The position of the first measure among a product's codes."""
        return len(self.columns)

    @cached_property
    def reader(self) -> Reader:
        """Who understands captions of this catalogue."""
        spoken: dict[str, dict[str, frozenset[Fact]]] = {}
        columns: dict[str, frozenset[int]] = {}
        for at, column in enumerate(self.columns):
            columns[column.manner] = columns.get(column.manner, frozenset()) | {at}
            for code, name in enumerate(column.phrases, start=1):
                if name:
                    phrases = spoken.setdefault(column.manner, {})
                    phrases[name] = phrases.get(name, frozenset()) | {(at, code)}
        return Reader(spoken, columns, self.first_measure)

    def topic(self, claim: Claim) -> str:
        """What kind of clause a claim is: "lighter", "color instead", "word is", ..."""
        if claim.kind == "same":
            return claim.kind
        columns = claim.columns or frozenset(column for column, _ in claim.new | claim.old)
        first = min(columns, default=0)
        if claim.kind in ("more", "less"):
            measure = MEASURES[first - self.first_measure]
            return (measure.more if claim.kind == "more" else measure.less)[0]
        manner = self.columns[first].manner
        return f"{'word' if manner in ('trait', 'part') else manner} {claim.kind}"

    def encode(self, rows: Sequence[dict[str, str]], measures: np.ndarray) -> np.ndarray:
        """The codes (N, A) of products: rows as column -> cell, measures (N, M)."""
        codes = np.zeros((len(rows), len(self.columns) + len(MEASURES)), dtype=np.int32)
        known = [
            {name: code for code, name in enumerate(column.phrases, start=1) if name}
            for column in self.columns
        ]
        brands = len(self.source) if self.has_brand else -1
        first_word = len(self.source) + self.has_brand
        for row, cells in enumerate(rows):
            for at, name in enumerate(self.source):
                codes[row, at] = known[at].get(phrase(cells[name]), 0)
            title = phrase(cells[self.title]) if self.title else ""
            if not title:
                continue
            if self.has_brand:
                codes[row, brands] = _brand_code(title.split(), known[brands])
            there = set(title.split())
            for at in range(first_word, len(self.columns)):
                codes[row, at] = ABSENT if there.isdisjoint(self.columns[at].forms) else PRESENT
        scaled = (measures - np.array(self.centre)) / np.array(self.spread) * 1000
        codes[:, self.first_measure :] = np.clip(np.rint(scaled), -30_000, 30_000)
        return codes


def learn_language(
    rows: Sequence[dict[str, str]], is_train: np.ndarray, cast: Cast, measures: np.ndarray
) -> Language:
    """Find out how a catalogue's products can be spoken of.

    How a column is said is told by its values, not by what it is called: colours by their words,
    people and seasons likewise, brands by standing first in the titles, kinds of product by
    standing last in them; only where there is no title do words such as "type" or "brand" in
    the column's name decide. The measures' spread and the choice of title words come from the
    train products alone; values are named wherever they occur.

    Args:
        rows: column -> cell of every product.
        is_train: which of them are for training (N,).
        cast: which column plays which part.
        measures: of every picture (N, M).
    """
    titles = [phrase(row[cast.title]).split() if cast.title else [] for row in rows]
    cells = {name: [phrase(row[name]) for row in rows] for name in cast.attributes}
    columns = [
        Column(name, _manner(name, cells[name], titles), _values(cells[name]))
        for name in cast.attributes
    ]
    columns = _weighted(columns, cells)
    spoken = {singular(word) for names in cells.values() for name in names for word in name.split()}
    has_brand = False
    brands: tuple[str, ...] = ()
    if cast.title and all(column.manner != "brand" for column in columns):
        brands = _brands(titles, spoken)
        has_brand = len(brands) > 1
    if has_brand:
        columns.append(Column("brand", "brand", brands, 0.6))
    spoken |= {singular(word) for brand in brands for word in brand.split()}
    spoken |= {
        singular(word)
        for column in columns
        if column.manner == "brand"
        for name in column.phrases
        for word in name.split()
    }
    train = [title for title, used in zip(titles, is_train, strict=True) if used]
    columns += [_word_column(forms) for forms in _title_words(train, spoken)]
    train_measures = measures[np.asarray(is_train, dtype=bool)].astype(np.float64)
    spread = np.maximum(train_measures.std(0), 1e-3 * np.maximum(1, np.abs(train_measures.mean(0))))
    return Language(
        tuple(columns), tuple(train_measures.mean(0).tolist()), tuple(spread.tolist()),
        cast.attributes, cast.title, has_brand,
    )  # fmt: skip


def _values(cells: Sequence[str]) -> tuple[str, ...]:
    """The values of a column, the commonest first; those too long to say are left out."""
    counts = Counter(cell for cell in cells if cell and len(cell.split()) <= MOST_WORDS)
    return tuple(sorted(counts, key=lambda value: (-counts[value], value)))


def _manner(name: str, cells: Sequence[str], titles: Sequence[Sequence[str]]) -> str:
    """How a column's values are said."""
    filled = [(cell, title) for cell, title in zip(cells, titles, strict=True) if cell]
    if not filled:
        return "plain"
    called = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))

    def share(true: Sequence[bool]) -> float:
        return sum(true) / len(filled)

    if share([any(word in COLOR_WORDS for word in cell.split()) for cell, _ in filled]) >= 0.5:
        return "color"
    if share([all(word in WEARERS for word in cell.split()) for cell, _ in filled]) >= 0.8:
        return "for"
    first = share([title[: len(cell.split())] == cell.split() for cell, title in filled])
    if called & _BRAND_HINTS or first >= 0.5:
        return "brand"
    ends = share(
        [
            bool(title) and singular(title[-1]) == singular(cell.split()[-1])
            for cell, title in filled
        ]
    )
    return "noun" if called & _KIND_HINTS or ends >= 0.3 else "plain"


def _weighted(columns: list[Column], cells: dict[str, list[str]]) -> list[Column]:
    """Give each column its weight; one that a finer column determines is hardly spoken of."""
    base = {"noun": 1.2, "color": 1.0, "brand": 0.6, "for": 0.4, "plain": 0.5}
    weighted = []
    for column in columns:
        coarse = any(
            len(finer.phrases) > len(column.phrases)
            and _determines(cells[finer.name], cells[column.name])
            for finer in columns
            if finer.manner == column.manner
        )
        weight = base[column.manner] * (0.15 if coarse else 1.0)
        weighted.append(Column(column.name, column.manner, column.phrases, weight))
    return weighted


def _determines(finer: Sequence[str], coarser: Sequence[str]) -> bool:
    """Whether the value of one column all but fixes that of another, and not for want of rows."""
    pairs = Counter((a, b) for a, b in zip(finer, coarser, strict=True) if a and b)
    best: Counter[str] = Counter()
    for (a, _), count in pairs.items():
        best[a] = max(best[a], count)
    if pairs.total() < 4 * max(1, len(best)):
        return False
    return sum(best.values()) >= 0.97 * pairs.total()


def _brands(titles: Sequence[Sequence[str]], spoken: set[str]) -> tuple[str, ...]:
    """The brands with which most titles begin, the commonest first; empty if they do not."""
    heads = []
    for title in titles:
        head: list[str] = []
        for word in title[:MOST_WORDS]:
            if singular(word) in spoken or word in COLOR_WORDS:
                break
            head.append(word)
        heads.append(tuple(head))
    counts = Counter(head[:length] for head in heads for length in range(1, len(head) + 1))
    least = max(3, round(0.002 * len(titles)))
    found: Counter[str] = Counter()
    for whole in heads:
        length = 1
        while length < len(whole) and counts[whole[: length + 1]] >= 0.6 * counts[whole[:length]]:
            length += 1
        if whole and counts[whole[:length]] >= least:
            found[" ".join(whole[:length])] += 1
    covered = found.total() >= 0.5 * max(1, sum(map(bool, titles)))
    return tuple(sorted(found, key=lambda name: (-found[name], name))) if covered else ()


def _brand_code(title: Sequence[str], known: dict[str, int]) -> int:
    """The code of the longest brand with which a title begins, 0 if none is known."""
    for length in range(MOST_WORDS, 0, -1):
        code = known.get(" ".join(title[:length]))
        if code:
            return code
    return 0


def _title_words(titles: Sequence[Sequence[str]], spoken: set[str]) -> list[tuple[str, ...]]:
    """Words of titles that tell products apart beyond the attributes, the commonest first.

    Returns:
        For each word its forms, the commonest first.
    """
    counts = Counter(word for title in titles for word in set(title))
    told = sum(map(bool, titles))
    forms: dict[str, list[str]] = {}
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        says = len(word) > 2 and word.isalpha() and word not in _DULL | COLOR_WORDS
        if says and singular(word) not in spoken:
            forms.setdefault(stem(word), []).append(word)
    least, most = max(3, round(0.004 * told)), 0.7 * told
    chosen = {tuple(words): sum(counts[word] for word in words) for words in forms.values()}
    kept = [words for words, count in chosen.items() if least <= count <= most]
    return sorted(kept, key=lambda words: (-chosen[words], words))[:MOST_TITLE_WORDS]


def _word_column(forms: Sequence[str]) -> Column:
    """A title word as a column of its own: absent or present."""
    word = forms[0]
    manner = "part" if word != singular(word) else "trait"
    return Column(word, manner, ("", word), 0.5, tuple(forms))
