"""Words and token ids."""

import numpy as np
import pytest

from retrieval.text import END, PADDING, UNKNOWN, Vocabulary, words

CAPTIONS = ["has a Red ball.", "has no blue ball", "isn't red; it's 2-tone!"]


def test_words_are_lower_case_without_punctuation():
    assert words("Isn't red; it's 2-tone!") == ["isn't", "red", "it's", "2", "tone"]
    assert words("  ?!  ") == []


def test_ids_are_in_order_of_first_appearance_after_three_special_ones():
    vocabulary = Vocabulary.build(CAPTIONS)
    known = ["has", "a", "red", "ball", "no", "blue", "isn't", "it's", "2", "tone"]
    assert list(vocabulary.words) == ["<pad>", "<unk>", "<end>", *known]
    assert len(vocabulary) == 13
    assert (PADDING, UNKNOWN, END) == (0, 1, 2)
    assert vocabulary.encode(["red"], 1)[0, 0] == 5


def test_rare_words_are_left_out():
    assert Vocabulary.build(CAPTIONS, min_count=2).words[3:] == ("has", "red", "ball")


def test_captions_come_back():
    vocabulary = Vocabulary.build(CAPTIONS)
    ids = vocabulary.encode(CAPTIONS, 8)
    assert ids.dtype == np.int64 and ids.shape == (3, 8)
    for caption, row in zip(CAPTIONS, ids.tolist(), strict=True):
        assert vocabulary.decode(row) == " ".join(words(caption))


def test_padding_unknown_words_and_the_cut():
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.encode(["a x b", "", "a b a b a b"], 4).tolist() == [
        [3, UNKNOWN, 4, PADDING],
        [0, 0, 0, 0],
        [3, 4, 3, 4],
    ]
    assert vocabulary.encode([], 4).shape == (0, 4)
    assert vocabulary.decode([3, UNKNOWN, 4]) == "a <unk> b"


@pytest.mark.parametrize("stop", [END, PADDING])
def test_decoding_stops_at_the_first_end_or_padding(stop):
    assert Vocabulary(["a", "b"]).decode([3, 4, stop, 3]) == "a b"
    assert Vocabulary(["a", "b"]).decode([stop]) == ""


def test_special_words_cannot_be_said():
    """A caption that spells "<pad>" gives no padding."""
    ids = Vocabulary(["pad", "a"]).encode(["<pad> a <end>"], 4)
    assert ids.tolist() == [[3, 4, UNKNOWN, 0]]


def test_vocabularies_are_equal_if_their_words_are():
    one, other = Vocabulary(["a", "b"]), Vocabulary(("a", "b"))
    assert one == other and hash(one) == hash(other)
    assert one != Vocabulary(["b", "a"]) and one != ("a", "b")


@pytest.mark.parametrize("length", [1, 3, 16])
def test_ids_are_those_of_the_words_one_by_one(length):
    """Also of what is no plain word: capitals, marks, apostrophes, other spaces, special names."""
    vocabulary = Vocabulary(["red", "ball", "isn't", "a", "x-ray"])
    captions = [
        "a red ball", "A Red, ball!", "isn't red", "red-ball a", "<pad> red", "<unk>", "", "   ",
        "a\u00a0red\tball\n", "x-ray", "x ray", "\u0130red", "'red' ball's", "a " * 20,
    ]  # fmt: skip
    ids = vocabulary.encode(captions, length)
    assert ids.shape == (len(captions), length) and ids.dtype == np.int64
    for row, caption in zip(ids.tolist(), captions, strict=True):
        expected = []
        for word in words(caption)[:length]:
            place = vocabulary.words.index(word) if word in vocabulary.words else UNKNOWN
            expected.append(place)
        assert row == expected + [PADDING] * (length - len(expected))
    assert vocabulary.encode([], length).shape == (0, length)
