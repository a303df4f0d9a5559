"""How close generated captions come to what people wrote: BLEU, CIDEr-D and diversity.

All scores are over the words of `tokenize`, not over the PTB tokens of the COCO caption tools
(which need Java). State the tokeniser beside a number: scores of two tokenisers do not compare.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

Words = list[str]

ORDERS = (1, 2, 3, 4)
"""The n-gram lengths of BLEU and CIDEr-D."""

SIGMA = 6.0
"""How many words of difference in length CIDEr-D forgives: the width of its penalty."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def tokenize(caption: str) -> list[str]:
    """Split a caption into the words that the metrics count.

    The rule: lower case, then every longest run of letters and digits is a word, and an
    apostrophe between two such runs joins them. All else separates words and is dropped: the
    PTB tokeniser would instead split "isn't" in two and keep "t-shirt" in one piece.

    Example:
        >>> tokenize("It isn't a T-shirt!")
        ['it', "isn't", 'a', 't', 'shirt']
    """
    return _WORD.findall(caption.lower().replace("\u2019", "'"))


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    r"""Score the n-grams that captions share with their references, over the whole corpus.

    .. math:: \text{BLEU-}n = 100 \, \min(1, e^{1 - r / c}) \, (p_1 \cdots p_n)^{1 / n}

    where p_k is the share of the captions' k-grams found in a reference of the same item, c the
    captions' total length and r that of the references closest to them in length. Nothing is
    smoothed: without a single common n-gram BLEU-n is 0. Papineni et al., "BLEU: a Method for
    Automatic Evaluation of Machine Translation", ACL 2002; computed by sacrebleu.

    Args:
        captions: one generated caption per item; may be empty strings.
        references: for each item its reference captions, in any number from one up. Those
            without a word are left out.

    Returns:
        `bleu_1` to `bleu_4`, in percent.

    Raises:
        ValueError: if there is no item, or an item has no reference with a word in it.
        ImportError: if sacrebleu is not installed.

    Example:
        >>> round(bleu(["red shoes"], [["red shoes with laces"]])["bleu_1"], 2)  # 100 / e
        36.79
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ImportError("BLEU needs sacrebleu: pip install sacrebleu") from error

    hypotheses, targets = _tokenize_items(captions, references)
    sentences = [" ".join(words) for words in hypotheses]
    # sacrebleu wants equally many references for every item. Repeating the last one changes
    # neither the largest counts nor the closest length, whereas "" would count as a length of 0.
    most = max(len(target) for target in targets)
    streams = [
        [" ".join(target[min(place, len(target) - 1)]) for target in targets]
        for place in range(most)
    ]
    scores = {}
    for order in ORDERS:
        metric = BLEU(max_ngram_order=order, smooth_method="none", tokenize="none", force=True)
        scores[f"bleu_{order}"] = float(metric.corpus_score(sentences, streams).score)
    return scores


def cider_d(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, np.ndarray]:
    r"""Score the n-grams that captions share with their references, rare ones counting more.

    .. math:: \text{CIDEr-D}(c, S) = \frac{10}{4 |S|} \sum_{n=1}^4 \sum_{s \in S}
        e^{-(|c| - |s|)^2 / 2 \sigma^2} \,
        \frac{\min(g_n(c), g_n(s)) \cdot g_n(s)}{\|g_n(c)\| \, \|g_n(s)\|}

    where g_n holds the counts of n-grams times log(items / items with the n-gram in a
    reference), and sigma is 6. Scores depend on all the items: with only one of them every
    n-gram is as common as can be, and the score is 0. Vedantam et al., "CIDEr: Consensus-based
    Image Description Evaluation", CVPR 2015, sec. 6. Departure: words are not stemmed, as in
    the authors' COCO code.

    Args:
        captions: one generated caption per item; an empty one scores 0.
        references: for each item its reference captions, in any number from one up. Those
            without a word are left out.

    Returns:
        The mean over items, and the score of each item (items,), both in [0, 10].

    Raises:
        ValueError: if there is no item, or an item has no reference with a word in it.
    """
    hypotheses, targets = _tokenize_items(captions, references)
    document_frequency: Counter[tuple[str, ...]] = Counter()
    for target in targets:
        document_frequency.update({ngram for words in target for ngram in _all_ngrams(words)})

    def weigh(words: Words) -> list[tuple[dict[tuple[str, ...], float], float]]:
        """For each order, the tf-idf weights of a caption's n-grams and their norm."""
        vectors = []
        for order in ORDERS:
            weights = {
                ngram: count * math.log(len(targets) / max(1, document_frequency[ngram]))
                for ngram, count in Counter(_ngrams(words, order)).items()
            }
            vectors.append((weights, math.hypot(*weights.values())))
        return vectors

    scores = np.zeros(len(targets))  # (items,)
    for item, (words, target) in enumerate(zip(hypotheses, targets, strict=True)):
        said = weigh(words)
        for reference in target:
            penalty = math.exp(-((len(words) - len(reference)) ** 2) / (2 * SIGMA**2))
            for (mine, my_norm), (theirs, their_norm) in zip(said, weigh(reference), strict=True):
                if my_norm > 0 and their_norm > 0:
                    # the clipping: a word said more often than in the reference earns no more
                    dot = sum(
                        min(mine[key], theirs[key]) * theirs[key] for key in mine if key in theirs
                    )
                    scores[item] += penalty * dot / (my_norm * their_norm)
        scores[item] *= 10.0 / (len(ORDERS) * len(target))
    return float(scores.mean()), scores


def diversity(captions: Sequence[str]) -> dict[str, float]:
    """Tell a user who finds new words from one who repeats a few safe phrases.

    Captions are compared by their words, so that case and punctuation do not count. Distinct-n
    is the share of n-grams, pooled over all captions, that are different: Li et al., "A
    Diversity-Promoting Objective Function for Neural Conversation Models", NAACL 2016. It falls
    as captions become more numerous, so compare sets of equal size.

    Returns:
        `vocabulary` (number of different words), `distinct_captions` (number of different
        captions), `distinct_share` (the same over the number of captions), `mean_length` (in
        words), `distinct_1` and `distinct_2`. A share of nothing is 0.

    Raises:
        ValueError: if there is no caption.

    Example:
        >>> diversity(["is red", "is blue"])["distinct_1"]  # is, red, blue of four words
        0.75
    """
    if not captions:
        raise ValueError("expected at least one caption, got none")
    sentences = [tuple(tokenize(caption)) for caption in captions]
    distinct = len(set(sentences))
    words = Counter(chain.from_iterable(sentences))
    pairs = Counter(chain.from_iterable(_ngrams(sentence, 2) for sentence in sentences))
    return {
        "vocabulary": float(len(words)),
        "distinct_captions": float(distinct),
        "distinct_share": distinct / len(sentences),
        "mean_length": words.total() / len(sentences),
        "distinct_1": len(words) / max(1, words.total()),
        "distinct_2": len(pairs) / max(1, pairs.total()),
    }


def caption_report(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Put the numbers of one captioner side by side: agreement with people, and diversity.

    Args:
        captions: one generated caption per item; may be empty strings.
        references: for each item its reference captions, in any number from one up.

    Returns:
        `bleu_1` to `bleu_4` in percent, `cider_d` in [0, 10], and the keys of `diversity`.

    Raises:
        ValueError: if there is no item, or an item has no reference with a word in it.
        ImportError: if sacrebleu is not installed.
    """
    mean, _ = cider_d(captions, references)
    return {**bleu(captions, references), "cider_d": mean, **diversity(captions)}


def _tokenize_items(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[Words], list[list[Words]]]:
    """Check that items can be scored; return the words of their captions and references."""
    if len(captions) != len(references):
        raise ValueError(
            f"expected one list of references per caption, got {len(captions)} captions and "
            f"{len(references)} lists of references"
        )
    if not captions:
        raise ValueError("expected at least one caption, got none")
    targets: list[list[Words]] = []
    for item, options in enumerate(references):
        if isinstance(options, str):
            raise ValueError(
                f"expected a list of references for item {item}, got one string: {options!r}. "
                "Wrap it in a list."
            )
        target = [words for words in map(tokenize, options) if words]
        if not target:
            raise ValueError(
                f"item {item} has no reference with a word in it: {list(options)!r}. "
                "Leave such items out."
            )
        targets.append(target)
    return [tokenize(caption) for caption in captions], targets


def _ngrams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """List the runs of `order` words, in order and with repeats."""
    return [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]


def _all_ngrams(words: Words) -> list[tuple[str, ...]]:
    """List the n-grams of every order."""
    return [ngram for order in ORDERS for ngram in _ngrams(words, order)]
