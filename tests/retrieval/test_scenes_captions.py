"""Scenes, their edits, what captions claim of a pair, and the captions themselves."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from retrieval.rendering.batch_captions import FEW, relative_captions
from retrieval.rendering.build import EDITION, sample_pairs
from retrieval.rendering.captions import DRAWS, MAX_WORDS, differences, relative_caption
from retrieval.rendering.claims import (
    NOUNS,
    PLACE_WORDS,
    TEMPLATES,
    Claim,
    is_faithful,
    plural,
    read,
    read_clause,
)
from retrieval.rendering.palette import COLORS, SHAPES, SIZES
from retrieval.rendering.scenes import (
    PLACES,
    edited,
    from_objects,
    phrase,
    sample_edit,
    sample_object,
    sample_scene,
    to_objects,
    unique_phrase,
)

LOOKS = ("3d", "2d")
ANYWHERE = frozenset(range(9))


def scene_of(**cells: tuple[int, int, int]) -> np.ndarray:
    """A scene from c0=(shape, colour, size), ..."""
    scene = np.zeros((9, 3), np.int8)
    for name, codes in cells.items():
        scene[int(name[1:])] = codes
    return scene


def random_pairs(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Strangers, near twins, chains of edits, and equal pairs, by turns."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        reference = sample_scene(rng, (0, 9) if number % 7 == 0 else (3, 6))
        if number % 4 == 0:
            target = sample_scene(rng)
        elif number % 4 == 3 and number % 3 == 0:
            target = reference.copy()
        else:
            target = reference
            for _ in range(number % 4):
                if (target[:, 0] > 0).any():
                    target = sample_edit(target, rng).scene
        pairs.append((reference, target))
    return pairs


@pytest.fixture(scope="module")
def built_in_pairs() -> tuple[np.ndarray, np.ndarray]:
    """4,000 pairs as the built-in data draws them, from families of six scenes."""
    rng = np.random.default_rng(1)
    scenes = []
    for _ in range(200):
        base = sample_scene(rng)
        scenes += [base] + [sample_edit(base, rng).scene for _ in range(5)]
    scenes = np.stack(scenes)
    rows = np.array(list(sample_pairs(scenes, 6, 4000, rng)))
    return scenes[rows[:, 0]], scenes[rows[:, 1]]


# ---- scenes


def test_sampled_scenes_have_the_objects_asked_for():
    rng = np.random.default_rng(0)
    counts = Counter(int((sample_scene(rng, (2, 4))[:, 0] > 0).sum()) for _ in range(300))
    assert sorted(counts) == [2, 3, 4]
    scenes = np.stack([sample_scene(rng) for _ in range(300)])
    full = scenes[scenes[..., 0] > 0]
    for attribute, names in enumerate((SHAPES, tuple(COLORS), SIZES)):
        assert set(full[:, attribute]) == set(range(1, len(names) + 1))
    empty = scenes[..., 0] == 0
    assert not scenes[empty].any()
    assert (~empty).any(0).all()  # every cell is used


def test_objects_round_trip():
    for reference, target in random_pairs(60):
        for scene in (reference, target):
            objects = to_objects(scene)
            assert len(objects) == (scene[:, 0] > 0).sum()
            np.testing.assert_array_equal(from_objects(objects), scene)


def test_objects_are_the_published_ones():
    (item,) = to_objects(scene_of(c5=(2, 3, 1)))  # middle row, right column
    assert item == {"shape": "circle", "color": "blue", "size": "small", "pos": [0.5, 2.5 / 3]}
    moved = {**item, "pos": [0.999, 0.01]}  # positions need not be centres
    np.testing.assert_array_equal(from_objects([moved]), scene_of(c6=(2, 3, 1)))
    np.testing.assert_array_equal(from_objects([{**item, "pos": [1.0, 1.0]}])[8], [2, 3, 1])


@pytest.mark.parametrize("key", ["shape", "color", "size"])
def test_unknown_objects_are_named(key):
    item = {"shape": "circle", "color": "blue", "size": "small", "pos": [0.5, 0.5], key: "mauve"}
    with pytest.raises(ValueError, match=f"unknown {key} 'mauve' in a CSS scene; known: "):
        from_objects([item])


def obey(instruction: str, scene: np.ndarray) -> np.ndarray:
    """What a person makes of an instruction, from its words alone."""
    result = scene.copy()
    words = instruction.split()
    values = [list(SHAPES), list(COLORS), list(SIZES)]

    def codes(size, color, shape):
        return [SHAPES.index(shape) + 1, list(COLORS).index(color) + 1, SIZES.index(size) + 1]

    if words[0] == "add":
        *thing, to, place = words[1:]
        cell = PLACES.index(place)
        assert to == "to" and not scene[cell].any()
        result[cell] = codes(*thing)
    elif words[0] == "make":
        place, *thing, value = words[1:]
        cell = PLACES.index(place)
        assert scene[cell].tolist() == codes(*thing)
        (attribute,) = (at for at, names in enumerate(values) if value in names)
        result[cell, attribute] = values[attribute].index(value) + 1
    else:
        assert words[0] == "remove"
        fits = []
        for cell in range(9):
            shape, color, _ = (int(code) for code in scene[cell])
            named = {"object", PLACES[cell]}
            if shape:
                named |= {SHAPES[shape - 1], list(COLORS)[color - 1]}
            if shape and set(words[1:]) <= named:
                fits.append(cell)
        (cell,) = fits  # one object alone is meant
        result[cell] = 0
    return result


def test_edits_do_what_their_instruction_says():
    rng = np.random.default_rng(0)
    kinds: Counter[str] = Counter()
    for _ in range(800):
        scene = sample_scene(rng, (2, 7))
        before = scene.copy()
        edit = sample_edit(scene, rng)
        np.testing.assert_array_equal(scene, before)
        np.testing.assert_array_equal(obey(edit.instruction, scene), edit.scene)
        assert (edit.scene != scene).any(1).sum() == 1
        assert 2 <= (edit.scene[:, 0] > 0).sum() <= 7
        kinds[edit.instruction.split()[0]] += 1
    assert kinds["make"] > 300 and min(kinds.values()) > 100 and len(kinds) == 3


def test_unique_phrases_say_as_little_as_is_enough():
    red_ball, red_cube, blue_ball = (2, 2, 1), (1, 2, 2), (2, 3, 1)
    scene = scene_of(c0=red_ball, c4=red_cube, c8=blue_ball)
    assert unique_phrase(scene, 8) == "blue object"
    assert unique_phrase(scene, 0) == "red circle"
    assert unique_phrase(edited(scene, 5, np.array(red_ball)), 5) == "middle-right red object"
    assert phrase(red_cube) == "large red rectangle"


# ---- claims


def fits(description, codes) -> bool:
    if codes[0] == 0:
        return False
    return all(said in (0, code) for said, code in zip(description, codes, strict=True))


def slow_holds(claim: Claim, reference: np.ndarray, target: np.ndarray) -> bool:
    """The truth of a claim, cell by cell."""
    before = {cell: tuple(map(int, reference[cell])) for cell in range(9)}
    after = {cell: tuple(map(int, target[cell])) for cell in range(9)}
    now = [cell for cell in claim.place if fits(claim.new, after[cell])]
    then = [cell for cell in claim.place if fits(claim.new, before[cell])]
    grown = {"bigger": (1, 2), "smaller": (2, 1)}
    match claim.kind:
        case "same":
            return before == after
        case "has":
            return len(now) > 0
        case "gains":
            return any(cell not in then for cell in now)
        case "lacks":
            return len(now) == 0
        case "empty":
            return all(after[cell][0] == 0 for cell in claim.place)
        case "loses":
            was = [fits(claim.old, before[cell]) for cell in claim.place]
            return any(was) and not any(fits(claim.old, after[cell]) for cell in claim.place)
        case "instead" | "turns" | "becomes":
            for cell in now:
                changed = [
                    attribute
                    for attribute in (0, 1)
                    if before[cell][attribute] != after[cell][attribute]
                ]
                expected = {"instead": ([0], [0, 1]), "turns": ([1],), "becomes": ([0],)}
                if fits(claim.old, before[cell]) and changed in expected[claim.kind]:
                    return True
            return False
        case "bigger" | "smaller":
            return any(
                fits(claim.old, before[cell])
                and before[cell][:2] == after[cell][:2]
                and (before[cell][2], after[cell][2]) == grown[claim.kind]
                for cell in claim.place
            )
        case "more":
            return len(now) > len(then)
        case "fewer":
            return len(now) < len(then)
        case "count":
            return len(now) == claim.number
    raise AssertionError(claim.kind)


def random_claims(rng: np.random.Generator, count: int) -> list[Claim]:
    places = [*PLACE_WORDS.values(), ANYWHERE]

    def partial():
        return tuple(int(c) * int(rng.random() < 0.45) for c in sample_object(rng))

    claims = []
    for number in range(count):
        kind = list(TEMPLATES)[number % len(TEMPLATES)]
        new = (0, 0, 0) if kind == "empty" else partial()
        place = places[rng.integers(len(places))]
        claims.append(Claim(kind, new, partial(), place, int(rng.integers(4))))
    return claims


def test_claims_hold_as_a_loop_over_cells_finds():
    rng = np.random.default_rng(0)
    true: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for reference, target in random_pairs(150):
        for claim in random_claims(rng, len(TEMPLATES) * 12):
            wanted = slow_holds(claim, reference, target)
            assert bool(claim.holds(reference, target)) == wanted, claim
            true[claim.kind] += wanted
            total[claim.kind] += 1
    assert sorted(total) == sorted(TEMPLATES)
    for kind in TEMPLATES:  # both answers occurred for each kind
        assert 5 < true[kind] < total[kind] - 5, kind


def test_claims_of_many_targets_are_claims_of_each():
    rng = np.random.default_rng(3)
    pairs = random_pairs(40, seed=4)
    reference = pairs[0][0]
    targets = np.stack([target for _, target in pairs] + [reference])
    references = np.stack([reference for reference, _ in pairs] + [reference])
    for claim in random_claims(rng, len(TEMPLATES) * 4):
        many = claim.holds(reference, targets)
        assert many.shape == (41,) and many.dtype == bool
        assert many.tolist() == [bool(claim.holds(reference, target)) for target in targets]
        both = claim.holds(references, targets)
        each = [bool(claim.holds(*pair)) for pair in zip(references, targets, strict=True)]
        assert both.tolist() == each
        turned = claim.holds(references, targets[0])  # many references, one target
        assert turned.tolist() == [bool(claim.holds(one, targets[0])) for one in references]


RED_BALL = (2, 2, 0)


@pytest.mark.parametrize(
    ("clause", "claim"),
    [
        ("has a red ball in the top left", Claim("has", RED_BALL, place=frozenset([0]))),
        ("there is a little thing on the back row", Claim("has", (0, 0, 1), place={0, 1, 2})),
        ("the sphere at the center is red", Claim("turns", RED_BALL, place=frozenset([4]))),
        (
            "has an extra large object in the left column",
            Claim("gains", (0, 0, 2), place={0, 3, 6}),
        ),
        ("has a red ball top left", Claim("has", RED_BALL, place=frozenset([0]))),
        ("the red ball is missing", Claim("loses", old=RED_BALL)),
        ("has nothing in the very middle", Claim("empty", place=frozenset([4]))),
        (
            "the big blue box in the front right is now a red ball",
            Claim("instead", RED_BALL, (1, 3, 2), frozenset([8])),
        ),
        (
            "the circle in the bottom center is red",
            Claim("turns", RED_BALL, place=frozenset([7])),
        ),
        ("the blue thing is red", Claim("turns", (0, 2, 0), (0, 3, 0))),
        ("the blue box is a ball", Claim("becomes", (2, 0, 0), (1, 3, 0))),
        ("the blue box is now a red ball", Claim("instead", RED_BALL, (1, 3, 0))),
        ("the cylinder is bigger", Claim("bigger", old=(3, 0, 0))),
        ("the one in the middle row is smaller", Claim("smaller", place={3, 4, 5})),
        ("there are more red balls", Claim("more", RED_BALL)),
        ("has fewer boxes", Claim("fewer", (1, 0, 0))),
        ("has three red things", Claim("count", (0, 2, 0), number=3)),
        ("has no difference", Claim("same")),
    ],
)
def test_clauses_are_read_as_a_person_would(clause, claim):
    found = read_clause(clause)
    assert (found.kind, found.new, found.old) == (claim.kind, claim.new, claim.old)
    assert set(found.place) == set(claim.place)
    assert found.number == claim.number


@pytest.mark.parametrize(
    "clause", ["", "has", "has a red", "has a red ball in the", "is nice", "has a ball red", "ball"]
)
def test_nonsense_is_no_clause(clause):
    assert read_clause(clause) is None
    scene = scene_of(c0=(2, 2, 1))
    assert not is_faithful(clause, scene, scene)


def test_every_clause_must_make_sense_and_be_true():
    reference, target = scene_of(c0=(2, 2, 1)), scene_of(c0=(2, 2, 1), c4=(1, 3, 2))
    assert is_faithful("has a blue cube in the center", reference, target)
    assert is_faithful("has a blue cube and has a red ball", reference, target)
    assert not is_faithful("has a blue cube and has no difference", reference, target)
    assert not is_faithful("has a blue cube and is nice", reference, target)
    assert [claim.kind for claim in read("has a blue cube and has fewer balls")] == ["has", "fewer"]


def test_every_template_is_read_as_its_own_kind():
    """Filled in by hand, each template comes back with what was put in."""
    slots = {
        "new": "small red ball", "a_new": "a small red ball", "news": "small red balls",
        "old": "big blue box", "noun": "ball",
        "a_noun": "a ball", "color": "red", "count": "four", "place": "in the top left",
    }  # fmt: skip
    for kind, templates in TEMPLATES.items():
        for template in templates:
            claim = read_clause(template.format(**slots))
            assert claim is not None and claim.kind == kind, template
            named = set(re.findall(r"{(\w+)}", template))
            if named & {"new", "a_new", "news"}:
                assert claim.new == (2, 2, 1)
            else:
                shape = 2 if named & {"noun", "a_noun"} else 0
                assert claim.new == (shape, 2 if "color" in named else 0, 0)
            assert claim.old == ((1, 3, 2) if "old" in named else (0, 0, 0))
            assert claim.place == (frozenset([0]) if "place" in named else ANYWHERE)
            assert claim.number == (4 if "count" in named else 0)


def test_words_are_unambiguous():
    for look in LOOKS:
        nouns = [word for words in NOUNS[look] for word in words]
        assert len(set(nouns)) == len(nouns)
    assert plural("box") == "boxes" and plural("ball") == "balls"
    assert {frozenset([cell]) for cell in range(9)} < set(PLACE_WORDS.values())


# ---- captions


@pytest.mark.parametrize("look", LOOKS)
def test_every_caption_is_true_and_short(look):
    rng = np.random.default_rng(5)
    for reference, target in random_pairs(900, seed=6):
        caption = relative_caption(reference, target, rng.random(DRAWS), look)
        claims = read(caption)
        assert None not in claims, caption
        for claim in claims:
            assert slow_holds(claim, reference, target), (caption, claim)
        assert is_faithful(caption, reference, target)
        assert 1 <= len(caption.split()) <= MAX_WORDS == 16
        assert re.fullmatch("[a-z ]+", caption)


def test_an_identical_pair_is_called_the_same_and_no_other():
    rng = np.random.default_rng(0)
    for reference, target in random_pairs(200):
        same = (reference == target).all()
        said = [
            claim.kind for claim in read(relative_caption(reference, target, rng.random(DRAWS)))
        ]
        assert (said == ["same"]) == same


def test_every_kind_of_clause_and_every_template_is_said(built_in_pairs):
    rng = np.random.default_rng(2)
    kinds: Counter[str] = Counter()
    captions = []
    for reference, target in zip(*built_in_pairs, strict=True):
        captions.append(relative_caption(reference, target, rng.random(DRAWS)))
        kinds.update(claim.kind for claim in read(captions[-1]))
    assert sorted(kinds) == sorted(TEMPLATES)
    text = "\n".join(captions)
    for templates in TEMPLATES.values():
        for template in templates:
            pattern = re.escape(template)
            pattern = re.sub(r"\\{\w+\\}", r"[a-z ]+", pattern)
            assert re.search(pattern, text), template


@pytest.mark.parametrize("look", LOOKS)
def test_captions_are_diverse_and_speak_of_the_pair(built_in_pairs, look):
    rng = np.random.default_rng(2)
    captions = [
        relative_caption(reference, target, rng.random(DRAWS), look)
        for reference, target in zip(*built_in_pairs, strict=True)
    ]
    assert len(set(captions)) >= 500
    others = {
        word for name, words in NOUNS.items() if name != look for few in words for word in few
    }
    words = {word for caption in captions for word in caption.split()}
    assert not words & others
    assert {word for few in NOUNS[look] for word in few} <= words
    lines = sum(bool({"row", "column"} & set(caption.split())) for caption in captions)
    assert 0.03 < lines / len(captions) < 0.3  # places are at times named roughly
    two = sum(len(read(caption)) == 2 for caption in captions)
    assert 0.2 < two / len(captions) < 0.6
    # said of other pairs they are mostly false: they tell pairs apart
    references, targets = built_in_pairs
    moved = np.roll(np.arange(len(captions)), 7)[:1000]
    wrong = [
        is_faithful(caption, references[row], targets[row])
        for caption, row in zip(captions, moved, strict=False)
    ]
    assert np.mean(wrong) < 0.35


def test_a_caption_is_made_of_its_own_draws_alone():
    """A fixed row of numbers decides: more of them change nothing, other ones do."""
    rng = np.random.default_rng(0)
    changed = 0
    for reference, target in random_pairs(150):
        draws = rng.random(DRAWS)
        caption = relative_caption(reference, target, draws)
        assert relative_caption(reference, target, [*draws, 0.5, 0.5]) == caption
        assert relative_caption(reference, target, draws.tolist()) == caption
        changed += relative_caption(reference, target, rng.random(DRAWS)) != caption
    assert changed > 100


def test_what_only_the_reference_tells_is_left_out():
    """Half of what is said of an object on show names it by looks that fit no other one."""
    rng = np.random.default_rng(4)
    by_looks = spoken = 0
    for reference, target in random_pairs(600, seed=9):
        for claim in read(relative_caption(reference, target, rng.random(DRAWS))):
            if claim.kind in ("turns", "becomes", "bigger", "smaller"):
                fitting = [cell for cell in range(9) if fits(claim.old, tuple(reference[cell]))]
                spoken += 1
                if claim.place == ANYWHERE and claim.kind in ("turns", "becomes"):
                    assert len(fitting) == 1
                    by_looks += 1
    assert 0.4 < by_looks / spoken < 0.9


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1, 1500])
def test_many_pairs_at_once_say_what_each_says_alone(look, count):
    """Strangers, near twins and twins; random draws, and extreme ones that end every choice."""
    rng = np.random.default_rng(count)
    pairs = random_pairs(count, seed=count)
    references, targets = (
        np.array([pair[side] for pair in pairs], np.int8).reshape(-1, 9, 3) for side in (0, 1)
    )
    extremes = rng.choice([0.0, 0.999999], size=(count, DRAWS))
    draws = np.where(rng.random((count, 1)) < 0.2, extremes, rng.random((count, DRAWS)))
    kept = references.copy(), targets.copy(), draws.copy()
    said = relative_captions(references, targets, draws, look)
    assert said == [
        relative_caption(*row, look) for row in zip(references, targets, draws, strict=True)
    ]
    for array, before in zip((references, targets, draws), kept, strict=True):
        assert (array == before).all()


def test_batches_that_do_not_fit_are_refused():
    scenes = np.array([pair[0] for pair in random_pairs(FEW + 1)])
    draws = np.zeros((FEW + 1, DRAWS))
    for few in (1, FEW + 1):
        with pytest.raises(ValueError, match=f"{few} pairs of scenes .* {few} rows of at least 40"):
            relative_captions(scenes[:few], scenes[:few], draws[:few, 1:])
        with pytest.raises(ValueError, match="expected as many"):
            relative_captions(scenes[:few], scenes[1:few], draws[:few])


def test_many_twins_at_once_are_called_the_same():
    scenes = np.array([pair[0] for pair in random_pairs(FEW + 9)])
    for caption in relative_captions(scenes, scenes.copy(), np.zeros((FEW + 9, DRAWS))):
        assert caption == TEMPLATES["same"][0]


def test_an_edition_says_the_same_for_ever():
    """Data sets and trained captioners are named by it: other words are another edition."""
    rng = np.random.default_rng(11)
    said = [
        relative_caption(*pair, rng.random(DRAWS), look)
        for look in LOOKS
        for pair in random_pairs(300, seed=3)
    ]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()
    assert (EDITION, digest[:16]) == (2, "20bcd342e2406124")


def test_draws_always_suffice():
    """Extreme numbers drive every choice to an end, and no caption runs out of them."""
    for reference, target in random_pairs(120):
        for draws in (np.zeros(DRAWS), np.full(DRAWS, 0.999999), np.tile([0.0, 0.999999], DRAWS)):
            caption = relative_caption(reference, target, draws[:DRAWS])
            assert is_faithful(caption, reference, target)


def test_striking_differences_are_said_more_often():
    """A large change is named more often than a small one beside it."""
    reference = scene_of(c0=(2, 2, 1), c2=(2, 3, 2), c8=(1, 1, 1))
    target = scene_of(c0=(2, 5, 1), c2=(2, 6, 2), c8=(1, 1, 1))  # both turn; c2 is large
    rng = np.random.default_rng(0)
    first: Counter[str] = Counter()
    for _ in range(600):
        clause = read(relative_caption(reference, target, rng.random(DRAWS)))[0]
        for cell in (0, 2):
            by_looks = clause.place == ANYWHERE and clause.old[1] == reference[cell, 1]
            first[cell] += clause.place == frozenset([cell]) or by_looks
    assert first[2] > 1.3 * first[0] > 100


def test_strangers_are_sometimes_described_on_their_own():
    reference = scene_of(c0=(2, 2, 1), c1=(1, 4, 2))
    target = scene_of(c0=(3, 3, 2), c5=(2, 5, 1))  # nothing shared
    rng = np.random.default_rng(0)
    kinds = Counter(
        tuple(c.kind for c in read(relative_caption(reference, target, rng.random(DRAWS))))
        for _ in range(300)
    )
    absolute = sum(count for said, count in kinds.items() if set(said) == {"has"})
    assert 0.1 < absolute / 300 < 0.5


def test_differences_are_the_cells_that_changed():
    reference = scene_of(c0=(2, 2, 1), c1=(1, 4, 1), c3=(1, 1, 1), c4=(3, 3, 2), c5=(1, 1, 1))
    target = scene_of(c0=(2, 3, 1), c1=(1, 4, 2), c4=(2, 3, 2), c5=(1, 1, 1), c6=(1, 3, 1))
    found = differences(reference, target)
    by_cell = {fact.cell: (fact.kind, fact.new, fact.old) for fact in found if fact.cell >= 0}
    assert by_cell == {
        0: ("turns", (2, 3, 1), (2, 2, 1)),
        1: ("bigger", (1, 4, 2), (1, 4, 1)),
        3: ("loses", (0, 0, 0), (1, 1, 1)),
        4: ("becomes", (2, 3, 2), (3, 3, 2)),
        6: ("gains", (1, 3, 1), (0, 0, 0)),
    }
    whole = [(fact.kind, fact.new, fact.number) for fact in found if fact.cell < 0]
    assert whole == [("count", (0, 3, 0), 3)]  # three blue ones now
    emptier = edited(target, 6, None)
    assert ("fewer", (0, 0, 0)) in [(fact.kind, fact.new) for fact in differences(target, emptier)]
