"""The caption metrics, against pencil and paper, loops and the COCO caption tools."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from user_simulator.metrics import bleu, caption_report, cider_d, diversity, tokenize

pytest.importorskip("sacrebleu", reason="BLEU is computed by sacrebleu")

WORDS = ["is", "has", "more", "less", "red", "blue", "shiny", "heel", "sole", "the", "with"]


def random_items(seed: int, count: int) -> tuple[list[str], list[list[str]]]:
    """Draw captions with 1 to 5 references of 1 to 12 words each; some captions are echoes."""
    rng = np.random.default_rng(seed)

    def sentence() -> list[str]:
        return [str(word) for word in rng.choice(WORDS, size=rng.integers(1, 13))]

    captions, references = [], []
    for _ in range(count):
        options = [sentence() for _ in range(rng.integers(1, 6))]
        words = sentence()
        if rng.random() < 0.5:  # echo a reference with one word changed, so that 4-grams match
            words = list(options[0])
            words[rng.integers(len(words))] = str(rng.choice(WORDS))
        captions.append(" ".join(words))
        references.append([" ".join(option) for option in options])
    return captions, references


def as_coco(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Spell items the way the COCO caption tools take them: references first, then results."""
    return (
        {item: list(options) for item, options in enumerate(references)},
        {item: [caption] for item, caption in enumerate(captions)},
    )


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Is RED.", ["is", "red"]),
        ("don't", ["don't"]),
        ("don\u2019t", ["don't"]),
        ("the '80s' heel", ["the", "80s", "heel"]),
        ("t-shirt, 3/4 sleeve_long", ["t", "shirt", "3", "4", "sleeve", "long"]),
        ("Café à l'eau", ["café", "à", "l'eau"]),
        ("  ?! ", []),
        ("", []),
    ],
)
def test_tokenize_follows_its_rule(caption: str, words: list[str]) -> None:
    assert tokenize(caption) == words
    assert tokenize(" ".join(words)) == words


class TestBleu:
    def test_a_repeated_reference_scores_100(self) -> None:
        scores = bleu(["is more red than this"], [["are shiny", "Is more red, than this!"]])
        assert list(scores) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4"]
        assert list(scores.values()) == pytest.approx([100.0] * 4)

    def test_two_words_by_hand(self) -> None:
        # c = 2, r = 4: brevity penalty exp(1 - 4 / 2). 2 of 2 words and 1 of 1 pairs match;
        # there is no run of three words to match.
        scores = bleu(["more red"], [["is much more red"]])
        short = 100 * math.exp(-1)
        assert list(scores.values()) == pytest.approx([short, short, 0.0, 0.0])

    def test_clipping_by_hand(self) -> None:
        # "red" counts once of three, and no pair matches; c = r, so there is no penalty.
        scores = bleu(["red red red"], [["a red shoe"]])
        assert list(scores.values()) == pytest.approx([100 / 3, 0.0, 0.0, 0.0])

    def test_is_taken_over_the_corpus(self) -> None:
        # 3 of 4 words and 1 of 2 pairs: counts are added over items before dividing
        scores = bleu(["is red", "is blue"], [["is red"], ["is green"]])
        assert scores["bleu_1"] == pytest.approx(75.0)
        assert scores["bleu_2"] == pytest.approx(100 * math.sqrt(3 / 4 * 1 / 2))

    def test_length_is_that_of_an_items_own_references(self) -> None:
        # The second item lacks a second reference. Were the gap filled with "", its length 0
        # would be as close to 2 words as 4 is, and no brevity penalty would be due.
        alone = bleu(["is a red shoe", "more red"], [["is a red shoe"], ["is much more red"]])
        uneven = bleu(
            ["is a red shoe", "more red"],
            [["is a red shoe", "are all very blue now"], ["is much more red"]],
        )
        assert uneven == pytest.approx(alone)
        assert alone["bleu_1"] == pytest.approx(100 * math.exp(1 - 8 / 6))

    def test_agrees_with_coco(self) -> None:
        # The COCO class adds 1e-15 to matches and 1e-9 to counts. That alone tells it apart
        # while every order has a match; without one it gives about 1e-15 ** (1 / n), not 0.
        module = pytest.importorskip(
            "pycocoevalcap.bleu.bleu", reason="compares with pycocoevalcap (pip)"
        )
        captions, references = random_items(seed=0, count=300)
        theirs, _ = module.Bleu(4).compute_score(*as_coco(captions, references), verbose=0)
        ours = bleu(captions, references)
        assert min(ours.values()) > 1
        np.testing.assert_allclose(list(ours.values()), 100 * np.array(theirs), rtol=1e-7)


class TestCiderD:
    def test_agrees_with_coco(self) -> None:
        # Its class named Cider is CIDEr-D: it clips, and penalises length with sigma = 6.
        module = pytest.importorskip(
            "pycocoevalcap.cider.cider", reason="compares with pycocoevalcap (pip)"
        )
        captions, references = random_items(seed=1, count=400)
        captions[7] = ""
        mean, scores = cider_d(captions, references)
        their_mean, their_scores = module.Cider().compute_score(*as_coco(captions, references))
        assert np.ptp(scores) > 5
        np.testing.assert_allclose(scores, their_scores, rtol=1e-9, atol=1e-12)
        assert mean == pytest.approx(their_mean, rel=1e-9)

    def test_by_hand(self) -> None:
        # Two items, so that an n-gram in the references of one of them weighs log 2 and one in
        # both, here "is", weighs nothing.
        # Item 0: "red" of the words and "is red" of the pairs match, longer runs do not exist:
        # (1 + 1 + 0 + 0) / 4 * 10 = 5.
        # Item 1: words (big: 2, ball: 0 references, so log 2 too) against (big: 1), clipped to
        # 1: 1 * 1 / (sqrt(5) * 1). Pairs "big big", "big ball" against "is big": none. Three
        # words against two: exp(-1 / 72).
        mean, scores = cider_d(["is red", "big big ball"], [["is red"], ["is big"]])
        assert scores == pytest.approx([5.0, 10 / 4 / math.sqrt(5) * math.exp(-1 / 72)])
        assert mean == pytest.approx(scores.mean())

    def test_is_the_mean_over_references(self) -> None:
        captions = ["is red", "is big"]
        _, first = cider_d(captions, [["is red"], ["is small"]])
        _, both = cider_d(captions, [["is red", "wholly unlike that"], ["is small"]])
        assert both[0] == pytest.approx(first[0] / 2)

    def test_a_repeated_reference_scores_10(self) -> None:
        mean, scores = cider_d(["has a red heel", "is more shiny now"], [["Has a red heel"]] * 2)
        assert scores.shape == (2,)
        assert mean == 0  # in the references of every item: no word tells them apart
        captions = ["has a red heel", "is more shiny now"]
        mean, _ = cider_d(captions, [[caption] for caption in captions])
        assert mean == pytest.approx(10.0)


class TestDiversity:
    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_loops(self, seed: int) -> None:
        captions, _ = random_items(seed, count=40)
        captions += [captions[0].upper() + "!", ""]
        words, pairs, seen = [], [], []
        for caption in captions:
            split = caption.lower().rstrip("!").split()
            words += split
            for place in range(1, len(split)):
                pairs.append(f"{split[place - 1]} {split[place]}")
            if split not in seen:
                seen.append(split)
        assert diversity(captions) == pytest.approx(
            {
                "vocabulary": len(set(words)),
                "distinct_captions": len(seen),
                "distinct_share": len(seen) / len(captions),
                "mean_length": len(words) / len(captions),
                "distinct_1": len(set(words)) / len(words),
                "distinct_2": len(set(pairs)) / len(pairs),
            }
        )

    def test_shares_of_nothing_are_zero(self) -> None:
        scores = diversity(["", ""])
        assert scores.pop("distinct_captions") == 1
        assert scores.pop("distinct_share") == 0.5
        assert set(scores.values()) == {0.0}


class TestReport:
    def test_puts_all_together(self) -> None:
        captions, references = random_items(seed=2, count=50)
        report = caption_report(captions, references)
        expected = bleu(captions, references) | diversity(captions)
        expected["cider_d"] = cider_d(captions, references)[0]
        assert report == expected
        assert all(type(value) is float for value in report.values())

    def test_empty_captions_score_zero(self) -> None:
        report = caption_report(["", "?"], [["is red"], ["is blue", "more blue"]])
        assert {name: value for name, value in report.items() if value} == {
            "distinct_captions": 1.0,
            "distinct_share": 0.5,
        }

    def test_one_empty_caption_among_others(self) -> None:
        captions, references = random_items(seed=3, count=50)
        full = caption_report(captions, references)
        report = caption_report(["", *captions[1:]], references)
        assert np.isfinite(list(report.values())).all()
        assert 0 < report["cider_d"] < full["cider_d"]

    def test_references_without_words_are_left_out(self) -> None:
        captions, references = random_items(seed=4, count=20)
        padded = [["", *options, " . "] for options in references]
        assert caption_report(captions, padded) == caption_report(captions, references)

    @pytest.mark.parametrize(
        ("captions", "references", "message"),
        [
            ([], [], "at least one caption"),
            (["is red"], [], "one list of references per caption, got 1 captions and 0"),
            (["is red", "is"], [["is"], ["", "!"]], "item 1 has no reference with a word"),
            (["is red"], [[]], "item 0 has no reference"),
            (["is red"], ["is red"], "Wrap it in a list"),
        ],
    )
    def test_says_what_it_cannot_score(
        self, captions: list[str], references: list[list[str]], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            caption_report(captions, references)


def test_no_captions_have_no_diversity() -> None:
    with pytest.raises(ValueError, match="at least one caption"):
        diversity([])
