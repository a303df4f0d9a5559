"""Captions to token ids and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

PADDING, UNKNOWN, END = 0, 1, 2
_SPECIAL = ("<pad>", "<unk>", "<end>")
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def words(caption: str) -> list[str]:
    """The words of a caption: lower case, letters and digits, punctuation dropped."""
    return _WORD.findall(caption.lower())


class Vocabulary:
    """The words a model knows; ids 0, 1 and 2 are padding, unknown and end.

    Args:
        known: words without the three special ones, in the order of their ids.

    Example:
        >>> vocabulary = Vocabulary.build(["has a red ball", "has a blue ball"])
        >>> vocabulary.encode(["has a green ball"], length=6)
        array([[3, 4, 1, 6, 0, 0]])
        >>> vocabulary.decode([3, 4, 6, 2, 0])
        'has a ball'
    """

    def __init__(self, known: Sequence[str]):
        self.words = (*_SPECIAL, *known)
        self._ids = {word: number for number, word in enumerate(self.words)}
        # what stands between spaces and needs no second look: lower case, letters and digits
        self._plain = {word: self._ids[word] for word in known if _WORD.fullmatch(word)}

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int = 1) -> Vocabulary:
        """The words seen at least `min_count` times, in order of first appearance."""
        counts = Counter(word for caption in captions for word in words(caption))
        return cls([word for word, count in counts.items() if count >= min_count])

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def encode(self, captions: Sequence[str], length: int) -> np.ndarray:
        """Token ids (B, length), padded with 0 and cut at `length` words."""
        ids: list[int] = []
        for caption in captions:
            known: list[int | None] = list(map(self._plain.get, caption.split()))
            if None in known:
                known = [self._ids.get(word, UNKNOWN) for word in words(caption)]
            ids += (known + [PADDING] * length)[:length]  # type: ignore[arg-type]
        return np.array(ids, dtype=np.int64).reshape(len(captions), length)  # (B, L)

    def decode(self, ids: Iterable[int]) -> str:
        """The caption of token ids, up to the first end or padding."""
        spoken: list[str] = []
        for number in ids:
            if number in (END, PADDING):
                break
            spoken.append(self.words[number])
        return " ".join(spoken)
