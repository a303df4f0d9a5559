"""Whose judgement says which of several images is nearest, and the most striking difference."""

import pickle

import numpy as np
import pytest

from retrieval.catalog import captions as catalog_captions
from retrieval.catalog.claims import ABSENT, PRESENT
from retrieval.catalog.gallery import KIND, CatalogGallery
from retrieval.catalog.language import Column, Language
from retrieval.catalog.looks import MEASURES
from retrieval.gallery import Gallery
from retrieval.rendering.captions import DRAWS, differences
from retrieval.rendering.claims import is_faithful, read
from user_simulator import AttributeUser, NoisyUser, RowDraws, StrikingUser, judge_of
from user_simulator.judging import AttributeJudge, FeatureJudge, nearer


def pairs_of(gallery: Gallery, count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.integers(len(gallery), size=count), rng.integers(len(gallery), size=count)


@pytest.fixture(scope="module")
def shop() -> CatalogGallery:
    """Products of two columns, two title words and measures; some cells are empty."""
    columns = (
        Column("colour", "color", ("red", "blue", "green"), 1.0),
        Column("kind", "noun", ("boot", "pump"), 2.0),
        Column("check", "trait", ("", "check"), 0.5, ("check",)),
        Column("laces", "part", ("", "laces"), 0.5, ("laces",)),
    )
    rng = np.random.default_rng(0)
    codes = np.zeros((20, 4 + len(MEASURES)), np.int32)
    codes[:, 0], codes[:, 1] = rng.integers(0, 4, 20), rng.integers(0, 3, 20)
    codes[:, 2:4] = rng.choice([ABSENT, PRESENT], (20, 2))
    codes[:5, 2:4] = 0  # no title
    codes[:, 4:] = rng.normal(0, 1500, (20, len(MEASURES)))
    language = Language(
        columns, (0.0,) * len(MEASURES), (1.0,) * len(MEASURES), ("colour", "kind"), "title"
    )
    features = rng.normal(size=(20, 3)).astype(np.float32)
    return CatalogGallery(tuple(map(str, range(20))), features, codes, kind=KIND, language=language)


# ---- judgement


def test_scenes_differ_by_the_share_of_codes_that_do(tiny_gallery):
    codes = tiny_gallery.attributes
    offered = np.random.default_rng(0).integers(64, size=(30, 5))
    target = np.random.default_rng(1).integers(64, size=30)
    distance = AttributeJudge(tiny_gallery).distance(offered, target)
    for row in range(30):
        for column in range(5):
            pairs = zip(codes[offered[row, column]], codes[target[row]], strict=True)
            share = sum(int(a) != int(b) for a, b in pairs) / 27
            assert distance[row, column] == pytest.approx(share)
    np.testing.assert_array_equal(AttributeUser(tiny_gallery).distance(offered, target), distance)


def test_products_differ_by_gowers_distance(shop):
    judge, codes = AttributeJudge(shop), shop.attributes
    weights = [1.0, 2.0, 0.5, 0.5]
    every = np.tile(np.arange(20), (20, 1))
    distance = judge.distance(every, np.arange(20))
    for one in range(20):
        for other in range(20):
            far = weight = 0.0
            for at in range(4):
                if codes[one, at] and codes[other, at]:  # known of both
                    weight += weights[at]
                    far += weights[at] * (codes[one, at] != codes[other, at])
            for at in range(4, codes.shape[1]):
                weight += 1
                far += min(3000, abs(int(codes[one, at]) - int(codes[other, at]))) / 3000
            assert distance[one, other] == pytest.approx(far / weight)
    np.testing.assert_allclose(distance, distance.T)
    assert not np.diag(distance).any() and distance.max() < 1


def test_features_differ_by_their_squared_distance():
    features = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    judged = FeatureJudge(features).distance(np.array([[0, 1, 2], [2, 1, 0]]), np.array([0, 1]))
    assert judged.tolist() == [[0, 2, 4], [2, 0, 2]]


class Mute:
    def describe(self, reference, target, rng):
        return [""] * len(target)


@pytest.mark.parametrize("by", ["features", "attributes"])
def test_for_whom_another_image_is_nearer(tiny_gallery, by):
    judge = AttributeJudge(tiny_gallery)
    if by == "features":
        rows = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
        rows[7] = rows[3]  # the same picture twice
        judge = FeatureJudge(rows)
    seen = 0
    for image, others in [(3, [7]), (3, [7, 12, 40]), (12, [3]), (0, [1, 2, 63])]:
        found = nearer(judge, image, np.array(others), 64)
        for target in range(64):
            own, *theirs = judge.distance(np.array([[image, *others]]), np.array([target]))[0]
            assert found[target] == any(one < own for one in theirs)
        seen += int(found.sum())
        assert not found[image]
    assert seen > 0
    if by == "features":
        assert not nearer(judge, 3, np.array([7]), 64).any()  # neither copy is nearer to anything


def test_a_wrapped_user_judges_as_before(tiny_gallery):
    user = AttributeUser(tiny_gallery)
    assert judge_of(user, tiny_gallery) is user
    assert judge_of(NoisyUser(NoisyUser(user, 0.3, 64), 0.1, 64), tiny_gallery) is user
    offered, target = np.array([[3, 8]]), np.array([5])
    looks = FeatureJudge(tiny_gallery.features).distance(offered, target)
    for speaker in (Mute(), NoisyUser(Mute(), 0.3, 64)):
        judge = judge_of(speaker, tiny_gallery)
        np.testing.assert_array_equal(judge.distance(offered, target), looks)
    with pytest.raises(ValueError, match="needs a gallery that has some"):
        AttributeJudge(Gallery(("a", "b"), np.eye(2, dtype=np.float32)))


# ---- the striking user


def test_it_names_the_heaviest_difference_and_nothing_else(tiny_gallery):
    """In the claims read back: of the fact with the largest weight, whatever the chances."""
    user = StrikingUser(tiny_gallery)
    scenes = tiny_gallery.attributes.reshape(-1, 9, 3)
    reference, target = pairs_of(tiny_gallery, 150)
    rng = np.random.default_rng(0)
    names = {"gains": {"gains", "has"}, "loses": {"loses", "lacks", "empty"}}
    for shown, meant in zip(reference, target, strict=True):
        facts = differences(scenes[shown], scenes[meant])
        said = user.describe(np.full(6, shown), np.full(6, meant), rng)
        top = max((fact.weight for fact in facts), default=0)
        first = next((fact for fact in facts if fact.weight == top), None)
        for caption in said:
            assert is_faithful(caption, scenes[shown], scenes[meant])
            (claim,) = read(caption)
            kind = "same" if first is None else first.kind
            assert claim.kind in names.get(kind, {kind})
            if first is not None and first.cell >= 0 and claim.place != frozenset(range(9)):
                assert first.cell in claim.place


def test_wording_varies_but_not_what_is_named(tiny_gallery):
    user, plain = StrikingUser(tiny_gallery), AttributeUser(tiny_gallery)
    pair = np.full(60, 3), np.full(60, 40)
    kinds = []
    for speaker in (user, plain):
        said = speaker.describe(*pair, np.random.default_rng(0))
        assert len(set(said)) > 3
        kinds.append({tuple(claim.kind for claim in read(caption)) for caption in said})
    assert len(kinds[0]) <= 3 < len(kinds[1])


def test_it_draws_as_every_user_does(tiny_gallery):
    user = StrikingUser(tiny_gallery)
    reference, target = pairs_of(tiny_gallery, 10)
    rows = RowDraws([np.random.default_rng(seed) for seed in range(10)])
    together = user.describe(reference, target, rows)
    twin = pickle.loads(pickle.dumps(user))
    for row in range(10):
        one = np.array([row])
        rng = np.random.default_rng(row)
        assert twin.describe(reference[one], target[one], rng) == [together[row]]
        assert rng.random() == np.random.default_rng(row).random(DRAWS + 1)[DRAWS]


def test_it_speaks_of_products(shop):
    user = StrikingUser(shop)
    reference, target = pairs_of(shop, 60)
    reader = shop.language.reader
    for shown, meant in zip(reference, target, strict=True):
        said = user.describe(np.full(5, shown), np.full(5, meant), np.random.default_rng(0))
        facts = catalog_captions.differences(
            shop.language, shop.attributes[shown], shop.attributes[meant]
        )
        for caption in said:
            (claim,) = reader.read(caption)
            assert claim is not None
            assert bool(claim.holds(shop.attributes[shown], shop.attributes[meant]))
            if not facts:
                assert claim.kind == "same"
                continue
            top = max(facts, key=lambda fact: fact.weight)
            columns = claim.columns or {column for column, _ in claim.new | claim.old}
            assert top.column in columns


def test_it_needs_attributes_it_knows(tiny_gallery):
    bare = Gallery(tiny_gallery.names, tiny_gallery.features, kind="css-3d")
    with pytest.raises(ValueError, match="of kind 'css-3d' without attributes"):
        StrikingUser(bare)
