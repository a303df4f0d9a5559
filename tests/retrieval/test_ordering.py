"""Ordering questions: readers, the Levenshtein choice, greedy chains and exact search."""

import json
from collections import Counter
from functools import cache
from itertools import combinations, groupby, permutations
from pathlib import Path

import numpy as np
import pytest
import torch

import retrieval.ordering.pairwise
from retrieval.datasets.annotations import read_json_lines
from retrieval.models import ModelSpec, build_model
from retrieval.ordering import (
    METHODS,
    Evidence,
    PairwiseModel,
    PairwiseTraining,
    Question,
    Similarities,
    accuracy,
    answer,
    as_published,
    choose,
    exact_search,
    first_of,
    fit_pairwise,
    greedy_chain,
    greedy_from_every_start,
    load_pairwise,
    other_orders,
    pairwise_score,
    pictures_of,
    ratio,
    read_questions,
    score_order,
)
from retrieval.ordering.pairwise import draw_pairs
from retrieval.ordering.questions import FILES

PUBLISHED = Path(__file__).resolve().parents[3] / "shared/data/annotations/youmakeup"
published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"the published questions are not in {PUBLISHED}"
)


# ---- the choice


@pytest.mark.parametrize(
    "one, other, expected",
    [("41253", "41523", 0.8), ("12345", "23451", 0.8), ("12345", "54321", 0.2)],
)
def test_published_ratios(one, other, expected):
    assert ratio(one, other) == expected


def fewest_edits(one: str, other: str) -> int:
    """Insertions and deletions, by trying everything."""

    @cache
    def left(i: int, j: int) -> int:
        if i == len(one) or j == len(other):
            return len(one) - i + len(other) - j
        if one[i] == other[j]:
            return left(i + 1, j + 1)
        return 1 + min(left(i + 1, j), left(i, j + 1))

    return left(0, 0)


def test_ratio_is_what_insertions_and_deletions_leave():
    rng = np.random.default_rng(0)
    for _ in range(300):
        one, other = ("".join(rng.choice(list("abc"), rng.integers(1, 7))) for _ in range(2))
        total = len(one) + len(other)
        assert ratio(one, other) == pytest.approx((total - fewest_edits(one, other)) / total)
    assert ratio("", "") == 1 and ratio("ab", "") == 0


def test_the_first_of_equally_like_candidates_is_chosen():
    assert choose("1234", ["4321", "2134", "1243"]) == "2134"
    assert choose((0, 1, 2), [(2, 1, 0), (0, 1, 2)]) == (0, 1, 2)


# ---- questions


@published
@pytest.mark.parametrize(
    "split, count, videos, fewest, most",
    [("valid", 1200, 131, 5, 30), ("test", 1500, 165, 6, 32)],
)
def test_published_questions(split, count, videos, fewest, most):
    questions, _ = read_questions(PUBLISHED, split)
    assert len(questions) == count and len({question.video for question in questions}) == videos
    lengths = [len(question.captions) for question in questions]
    assert (min(lengths), max(lengths)) == (fewest, most)
    lines = read_json_lines(PUBLISHED / "image_ordering" / FILES[split])
    for question, line in zip(questions, lines, strict=True):
        assert question.truth in question.candidates and len(set(question.candidates)) == 4
        assert as_published(question.truth) == line["groundtruth"]
        assert [as_published(one) for one in question.candidates] == line["candidate_answer"]


def lengths_of_common(questions) -> np.ndarray:
    """How often wrong candidates share 1, 2, 3 and 4 places in order with the truth."""
    counts = Counter(
        round(5 * ratio(candidate, truth))
        for truth, candidates in questions
        for candidate in candidates
        if candidate != truth
    )
    return np.array([counts[length] for length in (1, 2, 3, 4)]) / sum(counts.values())


@published
def test_our_candidates_are_made_as_the_published_ones():
    theirs = [(q.truth, q.candidates) for s in FILES for q in read_questions(PUBLISHED, s)[0]]
    rng = np.random.default_rng(0)
    ours = [(t, other_orders(t, rng)) for t, _ in theirs]
    assert lengths_of_common(ours) == pytest.approx(lengths_of_common(theirs), abs=0.03)


def test_candidates_are_different_and_hide_the_truth_anywhere():
    rng = np.random.default_rng(0)
    places = Counter()
    others = Counter()
    for _ in range(2000):
        made = other_orders((3, 1, 0, 2), rng)
        assert len(set(made)) == 4 and all(sorted(order) == [0, 1, 2, 3] for order in made)
        places[made.index((3, 1, 0, 2))] += 1
        others.update(made)
    assert all(places[place] == pytest.approx(500, abs=100) for place in range(4))
    del others[3, 1, 0, 2]
    assert len(others) == 23
    assert all(count == pytest.approx(6000 / 23, rel=0.3) for count in others.values())


def question_file(folder: Path, split: str = "test", **changes: object) -> Path:
    line = {
        "question_id": 7, "video_id": "v", "step_caption": ["a", "b", "c"],
        "groundtruth": [2, 1, 3], "candidate_answer": [[1, 2, 3], [2, 1, 3]],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in {**line, **changes}.items() if value is not None}
    (folder / FILES[split]).write_text(json.dumps(kept) + "\n")
    return folder


@pytest.mark.parametrize(
    "place, images",
    [
        (".", "images"),
        ("image_ordering", "image_ordering/images"),
        ("task/image_ordering/test", "task/image_ordering/test/images"),
        ("data/task/image_ordering", "data/task/image_ordering/test/images"),
    ],
)
def test_questions_in_every_layout(tmp_path, place, images):
    question_file(tmp_path / place)
    for name in ("10.jpg", "2.jpg", "b.PNG", "note.txt"):
        path = tmp_path / images / "7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    questions, folder = read_questions(tmp_path, "test")
    assert questions == [Question(7, "v", ("a", "b", "c"), ((0, 1, 2), (1, 0, 2)), (1, 0, 2))]
    (files,) = pictures_of(folder, questions)
    assert [file.name for file in files] == ["10.jpg", "2.jpg", "b.PNG"]  # by name, as published
    files[0].unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 questions lack .* first is question 7"):
        pictures_of(folder, questions)


def test_questions_whose_truth_is_hidden(tmp_path):
    (question,), _ = read_questions(question_file(tmp_path, groundtruth=None), "test")
    assert question.truth is None
    assert accuracy([question], {7: (0, 1, 2)}) is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"groundtruth": [1, 2, 4]}, r"expected an order of the pictures 1 to 3 in question 7"),
        ({"candidate_answer": [[1, 2, 3], [1, 2]]}, "candidate answers of one length"),
        ({"step_caption": ["a"]}, "expected a step for each of 3 pictures .* got 1"),
        ({"step_caption": None}, "expected the field 'step_caption'"),
    ],
)
def test_questions_that_contradict_themselves(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_questions(question_file(tmp_path, **changes), "test")


def test_mistakes_about_questions_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"unknown split .* 'validation'\. Did you mean 'valid'"):
        read_questions(tmp_path, "validation")
    with pytest.raises(FileNotFoundError, match=FILES["valid"]):
        read_questions(tmp_path, "valid")
    path = question_file(tmp_path) / FILES["test"]
    path.write_text(path.read_text() * 2)
    with pytest.raises(ValueError, match="question_id twice"):
        read_questions(tmp_path, "test")
    path.write_text("\n")
    with pytest.raises(ValueError, match="no questions"):
        read_questions(tmp_path, "test")


# ---- orders


class Table:
    """Similarities by hand: (image, heard, until) -> row; everything else is 0."""

    def __init__(self, images: int, rows: dict[tuple[int, int, int], list[float]]):
        self.images, self.rows, self.asked = images, rows, []

    def __call__(self, image: int, heard: int, until: int) -> np.ndarray:
        self.asked.append((image, heard, until))
        return np.array(self.rows.get((image, heard, until), [0.0] * self.images))


class Random:
    """Similarities that are any numbers, the same when asked again."""

    def __init__(self, images: int, seed: int):
        self.images, self.seed = images, seed

    def __call__(self, image: int, heard: int, until: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, image, heard, until])
        return rng.uniform(-1, 1, self.images)


def test_a_chain_with_a_caption_for_each_link():
    table = Table(3, {(1, 0, 1): [0.2, 0.9, 0.3], (2, 1, 2): [0.5, 0.8, 0.9]})
    found = greedy_chain(table, images=3, steps=3, first=1)
    assert found.order == (1, 2, 0)  # 1 itself and then 1 and 2 are no longer to be had
    assert found.score == pytest.approx(0.3 + 0.5)
    assert table.asked == [(1, 0, 1), (2, 1, 2)]


def test_a_chain_adds_captions_while_the_best_does_not_fall():
    table = Table(3, {
        (0, 0, 1): [0, 0.4, 0.3],
        (0, 0, 2): [0, 0.1, 0.4],  # as good, by another image: accepted
        (0, 0, 3): [0, 0.39, 0.39],  # worse: undone
        (2, 2, 3): [0.9, 0.2, 0.9],
        (2, 2, 4): [0.9, 0.6, 0.9],
    })  # fmt: skip
    found = greedy_chain(table, images=3, steps=5, first=0)
    assert found.order == (0, 2, 1)
    assert found.score == pytest.approx(0.4 + 0.6)
    # the last link may take both captions that are left, the first one never all four
    assert table.asked == [(0, 0, 1), (0, 0, 2), (0, 0, 3), (2, 2, 3), (2, 2, 4)]


def divisions(links: int, steps: int, anywhere: bool):
    """Every way to end the links' texts: the captions after which each picture stands."""
    for begin in range(steps) if anywhere else (0,):
        for ends in combinations(range(begin + 1, steps), links):
            yield (begin, *ends)


def best_by_trying(similarity, images, steps, anywhere=False, orders=None):
    """The best order and score by trying everything."""
    scores = {}
    for order in orders or permutations(range(images)):
        for ends in divisions(images - 1, steps, anywhere):
            score = sum(
                similarity(order[at], ends[at], ends[at + 1])[order[at + 1]]
                for at in range(images - 1)
            )
            scores[order] = max(score, scores.get(order, -np.inf))
    best = max(scores, key=lambda order: scores[order])
    return best, scores


@pytest.mark.parametrize("images, steps", [(3, 3), (3, 6), (4, 5), (5, 5), (4, 7)])
@pytest.mark.parametrize("anywhere", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_exact_search_is_best(images, steps, anywhere, seed):
    similarity = Random(images, seed)
    expected, scores = best_by_trying(similarity, images, steps, anywhere)
    found = exact_search(similarity, images, steps, anywhere=anywhere)
    assert found.order == expected and found.score == pytest.approx(scores[expected])
    for order in list(scores)[:5]:
        assert score_order(similarity, order, steps, anywhere) == pytest.approx(scores[order])
    starting = {order: score for order, score in scores.items() if order[0] == 1}
    from_one = exact_search(similarity, images, steps, first=1, anywhere=anywhere)
    assert starting[from_one.order] == pytest.approx(max(starting.values()))


@pytest.mark.parametrize("seed", range(20))
def test_no_chain_beats_exact_search(seed):
    images, steps = 5, 5 + seed % 4
    similarity = Random(images, seed)
    chains = [greedy_chain(similarity, images, steps, first) for first in range(images)]
    for first, chain in enumerate(chains):
        assert chain.order[0] == first and sorted(chain.order) == list(range(images))
        bound = exact_search(similarity, images, steps, first).score
        assert chain.score <= score_order(similarity, chain.order, steps) + 1e-9 <= bound + 2e-9
    every = greedy_from_every_start(similarity, images, steps)
    assert every == max(chains, key=lambda chain: chain.score)


def test_fewer_captions_than_pictures_are_refused():
    for search in (lambda s: exact_search(s, 5, 4), lambda s: greedy_chain(s, 5, 4, 0)):
        with pytest.raises(ValueError, match="at least as many captions as pictures.*got 4 for 5"):
            search(Random(5, 0))


# ---- similarities of a model


@pytest.fixture(scope="module", params=["tirg", "concat", "tirg_lastconv"])
def model(request):
    torch.manual_seed(0)
    words = ("red", "blue", "big", "ball")
    spec = ModelSpec(request.param, 8, "small-cnn", words=words)
    return build_model(spec).eval()


def test_similarities_are_cosines_of_one_query_at_a_time(model):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    captions = ["red ball", "big", "blue ball", "red", "ball big", "blue"]
    similarities = Similarities(model, pictures, captions)
    lazy = {asked: similarities(*asked) for asked in ((2, 0, 1), (0, 1, 4), (3, 0, 5))}
    similarities.compose_all()
    with torch.inference_mode():
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        embeddings = model.embed(images).numpy().astype(np.float64)
        for (image, heard, until), row in lazy.items():
            text = " ".join(captions[heard + 1 : until + 1])
            ids = model.token_ids([text])
            query = model.compose(images[image : image + 1], ids).numpy()[0]
            norms = np.linalg.norm(query) * np.linalg.norm(embeddings, axis=1)
            assert row == pytest.approx(embeddings @ query / norms, abs=1e-5)
            assert similarities(image, heard, until) == pytest.approx(row, abs=1e-5)
    composed = len(similarities._known)
    exact_search(similarities, 4, len(captions))
    assert len(similarities._known) == composed  # all that an order can ask for was there


def test_a_model_on_features_cannot_order():
    spec = ModelSpec("tirg", 8, "features", feature_dim=4, words=("red",))
    with pytest.raises(ValueError, match="reads extracted features"):
        Similarities(build_model(spec).eval(), np.zeros((2, 8, 8, 3), np.uint8), ["red"])


# ---- answers


def true_evidence(truth=(2, 0, 3, 1)) -> Evidence:
    """Everything points to the truth."""
    rng = np.random.default_rng(1)
    place = {image: at for at, image in enumerate(truth)}

    def similarity(image: int, heard: int, until: int) -> np.ndarray:
        fits = heard == place[image]
        return np.array([1.0 if fits and place[k] == until else 0.1 for k in range(4)])

    later = np.array([[float(place[i] > place[j]) for j in range(4)] for i in range(4)])
    question = Question(1, "v", ("a", "b", "c", "d"), other_orders(truth, rng), truth)
    return Evidence(question, similarity, truth[0], later)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_what_is_plain_to_see(method):
    for truth in permutations(range(4)):
        evidence = true_evidence(truth)
        assert answer(evidence, method) == truth
        assert accuracy([evidence.question], {1: truth}) == 1.0
        wrong = next(order for order in evidence.question.candidates if order != truth)
        assert accuracy([evidence.question], {1: wrong}) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_lacks_is_named(method):
    for field in METHODS[method].needs:
        with pytest.raises(ValueError, match=f"the method {method} needs"):
            answer(true_evidence()._replace(**{field: None}), method)


def test_methods_by_hand_where_they_differ():
    """The pairwise model errs about the first picture; the chain follows, the others do not."""
    evidence = true_evidence((0, 1, 2, 3))
    truth, other = (0, 1, 2, 3), (3, 2, 1, 0)
    question = evidence.question._replace(candidates=(other, truth))
    misled = evidence._replace(question=question, first=3, later=1 - evidence.later)
    assert answer(misled, "pairwise") == other
    assert answer(misled, "greedy-starts") == answer(misled, "exact") == truth
    assert answer(misled, "candidates") == answer(misled, "exact-anywhere") == truth


# ---- the pairwise model


def test_the_first_picture_and_the_score_of_an_order_by_hand():
    later = np.array([[0.9, 0.8, 0.3], [0.4, 0.9, 0.7], [0.6, 0.2, 0.9]])
    # others later than 0: 0.4 + 0.6; than 1: 0.8 + 0.2; than 2: 0.3 + 0.7
    assert first_of(later + np.array([[0, 0.1, 0], [0, 0, 0], [0, 0, 0]])) == 1
    assert first_of(later + np.array([[0, 0, 0], [0.1, 0, 0], [0, 0, 0]])) == 0
    # 1 later than 2, 0 later than 2, 0 later than 1
    assert pairwise_score(later, (2, 1, 0)) == pytest.approx(0.7 + 0.3 + 0.8)


def test_pairs_are_of_every_gap_and_half_are_turned_round():
    rows = list(range(100, 109))
    drawn = [draw_pairs([rows, [5]], np.random.default_rng(seed)) for seed in range(40)]
    for pairs in drawn:
        gaps = pairs[:, 1] - pairs[:, 0]
        counts = Counter(gaps.tolist())
        assert [counts[gap] for gap in (1, 2, 3, 4)] == [8, 7, 6, 5]
        assert (gaps >= 5).sum() == 4 and gaps.max() <= 8
    videos = [list(range(10 * video, 10 * video + 6)) for video in range(8)]
    firsts = set()
    for seed in range(20):
        together = draw_pairs(videos, np.random.default_rng(seed), together=True)
        order = [video for video, _ in groupby(together[:, 0] // 10)]
        assert sorted(order) == list(range(8))  # the pairs of each video in one run
        firsts.add(order[0])
    assert len(firsts) > 3
    every = np.concatenate(drawn)
    assert every[:, 2].mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="two steps or more"):
        draw_pairs([[1], []], np.random.default_rng(0))


def shades(count: int) -> np.ndarray:
    """Pictures that grow brighter."""
    levels = np.linspace(20, 230, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, 16, 16, 3)).copy()


def test_training_learns_the_order_and_resumes_to_the_same_weights(tmp_path, monkeypatch):
    pictures, sequences = shades(8), [list(range(8))] * 4
    how = PairwiseTraining("small-cnn", "adamw", "one_cycle", 1e-3, 0.01, 16, 4)

    def fitted(path: Path, how: PairwiseTraining) -> PairwiseModel:
        torch.manual_seed(0)
        model = PairwiseModel("small-cnn")
        fit_pairwise(model, pictures, sequences, how, path)
        return model

    whole = fitted(tmp_path / "whole.pt", how)
    history = json.loads((tmp_path / "whole.json").read_text())
    assert len(history) == 4 and history[-1]["right"] > 0.9

    saved = []
    save = retrieval.ordering.pairwise._save

    def save_twice(*args, **more):
        save(*args, **more)
        saved.append(args[0])
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(retrieval.ordering.pairwise, "_save", save_twice)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "halves.pt", how)
    resumed = fitted(tmp_path / "halves.pt", how)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)

    loaded = load_pairwise(tmp_path / "whole.pt")
    later = loaded.later(pictures[[6, 0, 3]])
    with torch.inference_mode():
        images = torch.from_numpy(pictures[[6, 0, 3]]).permute(0, 3, 1, 2).float() / 255
        one_pair = loaded(images[:2], torch.tensor([[0, 1]])).softmax(-1)[0, 1].item()
    assert later[0, 1] == pytest.approx(one_pair, abs=1e-5)
    assert later.shape == (3, 3) and first_of(later) == 1
    with pytest.raises(ValueError, match="trained in another way"):
        fitted(tmp_path / "whole.pt", PairwiseTraining("small-cnn", epochs=2))


def test_other_files_are_no_pairwise_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_pairwise"):
        load_pairwise(tmp_path / "none.pt")
    torch.save({"kind": "composer"}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a model that train_pairwise saved"):
        load_pairwise(tmp_path / "other.pt")
