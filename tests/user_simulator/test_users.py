"""Those who speak: from attributes, by a network, with slips; and who listens to them."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import user_simulator
from retrieval.datasets import css
from retrieval.gallery import Gallery, Triplet
from retrieval.rendering.claims import is_faithful
from retrieval.text import END, PADDING, UNKNOWN, Vocabulary
from user_simulator import USERS, AttributeUser, NoisyUser, RowDraws, SharedDraws, captioner
from user_simulator.base import UserModel
from user_simulator.captioner import MAX_WORDS, NeuralUser, RelativeCaptioner
from user_simulator.listening import SceneListener
from user_simulator.quality import format_report, report, train_and_report
from user_simulator.training import fit_captioner, with_end

N, F_SIZE, G, C = 12, 7, 9, 5


def ball(shape=2, color=2, size=1) -> tuple[int, int, int]:
    return shape, color, size


def scene_of(**cells) -> np.ndarray:
    scene = np.zeros((9, 3), np.int8)
    for name, codes in cells.items():
        scene[int(name[1:])] = codes
    return scene


def gallery_of(scenes: list[np.ndarray], kind: str = "css-3d") -> Gallery:
    table = np.stack(scenes)
    names = tuple(map(str, range(len(scenes))))
    return Gallery(names, css.one_hot(table), table.reshape(len(scenes), 27), kind=kind)


def pairs_of(gallery: Gallery, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(len(gallery), size=count), rng.integers(len(gallery), size=count)


class Echo:
    """Says which pair it is asked about, and draws one number that it does not say."""

    def describe(self, reference, target, rng):
        rng.random((len(target), 1))
        return [f"{shown} {meant}" for shown, meant in zip(reference, target, strict=True)]


# ---- where chances come from


def test_row_draws_give_each_dialog_its_own():
    rows = RowDraws([np.random.default_rng(seed) for seed in (3, 4, 5)])
    alone = [np.random.default_rng(seed) for seed in (3, 4, 5)]
    for size in (2, 5, 1):
        drawn = rows.random((3, size))
        assert drawn.shape == (3, size)
        for row in range(3):
            np.testing.assert_array_equal(drawn[row], alone[row].random(size))


def test_shared_draws_serve_rows_in_groups():
    drawn = SharedDraws(np.random.default_rng(0), 3).random((12, 4))
    wanted = np.random.default_rng(0).random((4, 4))
    for row in range(12):
        np.testing.assert_array_equal(drawn[row], wanted[row // 3])


# ---- the attribute user


@pytest.mark.parametrize("look", ["3d", "2d"])
def test_the_attribute_user_tells_the_truth(tiny_root, look):
    gallery, _ = css.load(tiny_root, "train", look, encoder="scene")
    reference, target = pairs_of(gallery, 200)
    captions = AttributeUser(gallery).describe(reference, target, np.random.default_rng(0))
    scenes = gallery.attributes.reshape(-1, 9, 3)
    assert len(set(captions)) > 120
    for caption, shown, meant in zip(captions, reference, target, strict=True):
        assert is_faithful(caption, scenes[shown], scenes[meant])
    said = {word for caption in captions for word in caption.split()}
    assert ("cube" in said, "square" in said) == (look == "3d", look == "2d")


def test_the_attribute_user_speaks_of_each_dialog_apart(tiny_gallery):
    user = AttributeUser(tiny_gallery)
    reference, target = pairs_of(tiny_gallery, 12)
    rows = RowDraws([np.random.default_rng(seed) for seed in range(12)])
    together = user.describe(reference, target, rows)
    for row in range(12):
        one = np.array([row])
        alone = user.describe(reference[one], target[one], np.random.default_rng(row))
        assert alone == [together[row]]
    pairs = np.full(40, 3), np.full(40, 5)
    assert len(set(user.describe(*pairs, np.random.default_rng(0)))) > 5
    shared = SharedDraws(np.random.default_rng(0), 40)
    assert len(set(user.describe(*pairs, shared))) == 1


def test_the_attribute_user_draws_the_same_whatever_it_says(tiny_gallery):
    for target in (4, 9):
        rng = np.random.default_rng(0)
        AttributeUser(tiny_gallery).describe(np.array([4]), np.array([target]), rng)
        after = rng.random()
        assert after == np.random.default_rng(0).random(41)[40]


def test_the_attribute_user_needs_attributes_it_knows(tiny_gallery):
    bare = Gallery(tiny_gallery.names, tiny_gallery.features, kind="css-3d")
    with pytest.raises(ValueError, match="of kind 'css-3d' without attributes"):
        AttributeUser(bare)
    shoes = Gallery(
        tiny_gallery.names, tiny_gallery.features, tiny_gallery.attributes, kind="shoes"
    )
    with pytest.raises(ValueError, match="of kind 'shoes' with attributes; known kinds: css-3d"):
        AttributeUser(shoes)


@pytest.mark.parametrize("noise", [0, 0.5])
def test_users_pickle(tiny_gallery, noise):
    user = NoisyUser(AttributeUser(tiny_gallery), noise, len(tiny_gallery))
    pairs = pairs_of(tiny_gallery, 20)
    for twin in (pickle.loads(pickle.dumps(user)), copy.deepcopy(user)):
        said = [speaker.describe(*pairs, np.random.default_rng(0)) for speaker in (user, twin)]
        assert said[0] == said[1]


# ---- the noisy user


def slips(probability: float, count: int = 4000) -> np.ndarray:
    """Which image each caption was about (count, 2): said, meant."""
    reference, target = np.zeros(count, int), np.random.default_rng(1).integers(N, size=count)
    user = NoisyUser(Echo(), probability, N)
    captions = user.describe(reference, target, np.random.default_rng(0))
    return np.stack([[int(caption.split()[1]) for caption in captions], target], axis=1)


def test_without_noise_the_inner_user_speaks(tiny_gallery):
    inner = AttributeUser(tiny_gallery)
    pairs = pairs_of(tiny_gallery, 50)
    rng = np.random.default_rng(0)
    captions = NoisyUser(inner, 0.0, len(tiny_gallery)).describe(*pairs, rng)
    again = np.random.default_rng(0)
    again.random((50, 2))
    assert captions == inner.describe(*pairs, again)


def test_pure_noise_is_never_about_the_target_and_about_any_other():
    said, meant = slips(1.0).T
    assert not (said == meant).any()
    counts = np.bincount((said - meant) % N, minlength=N)
    assert counts[0] == 0 and (counts[1:] > 4000 / (N - 1) * 0.75).all()


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.8])
def test_the_share_of_slips_is_the_probability(probability):
    said, meant = slips(probability).T
    assert abs((said != meant).mean() - probability) < 4 * np.sqrt(0.25 / 4000)


def test_slips_keep_the_reference_and_the_dialogs_apart():
    reference = np.arange(10)
    target = np.arange(10)[::-1].copy()
    user = NoisyUser(Echo(), 0.5, 10)
    rows = RowDraws([np.random.default_rng(seed) for seed in range(10)])
    together = user.describe(reference, target, rows)
    assert [int(caption.split()[0]) for caption in together] == reference.tolist()
    assert target.tolist() == list(range(10))[::-1]  # not overwritten
    for row in range(10):
        one = np.array([row])
        alone = user.describe(reference[one], target[one], np.random.default_rng(row))
        assert alone == [together[row]]


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_share_is_between_nothing_and_all(probability):
    with pytest.raises(ValueError, match=rf"a probability in \[0, 1\], got {probability}"):
        NoisyUser(Echo(), probability, 5)


def test_the_neural_user_is_loaded_when_asked_for():
    assert user_simulator.NeuralUser is NeuralUser
    assert set(USERS) == {"attribute", "neural", "striking"}
    with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
        _ = user_simulator.Nobody


# ---- the captioner, against what its docstring says

KNOWN = ["has", "a", "red", "blue", "ball", "box", "and", "no"]


@pytest.fixture
def world() -> tuple[RelativeCaptioner, Gallery]:
    """A captioner with random weights whose sentences end at any length, and a gallery."""
    torch.manual_seed(2)
    model = RelativeCaptioner(Vocabulary(KNOWN), F_SIZE, C, G, hidden_size=16).eval()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, F_SIZE)).astype(np.float32)
    grids = rng.normal(1.0, 3.0, size=(N, G, C)).astype(np.float16)
    model.standardize(torch.from_numpy(grids.astype(np.float32)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # sharp enough to say different things
    return model, Gallery(tuple(map(str, range(N))), features, grids=grids)


def tables_of(model, gallery):
    grids = torch.from_numpy(gallery.grids.astype(np.float32))
    with torch.inference_mode():
        return model.tables(torch.from_numpy(gallery.features), grids)


def slow_scores(model: RelativeCaptioner, gallery: Gallery, r: int, t: int, said: list[int]):
    """Scores (V,) of the next word of one pair, straight from [t, t - r], one word at a time."""
    grids = torch.from_numpy(gallery.grids.astype(np.float32))
    grids = (grids - grids.mean((0, 1))) / grids.std((0, 1))
    vectors = torch.from_numpy(gallery.features)

    both = torch.cat([vectors[t], vectors[t] - vectors[r]])
    hidden, cell = torch.tanh(model.begin(both)).split(model.sizes["hidden_size"])
    places = torch.stack(
        [
            F.relu(model.compare(torch.cat([grids[t, g], grids[t, g] - grids[r, g]])))
            + model.place[g]
            for g in range(G)
        ]
    )
    lstm = model.lstm
    for word in [PADDING, *said]:
        gates = lstm.weight_ih_l0 @ model.word.weight[word] + lstm.bias_ih_l0
        gates = gates + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0
        enter, forget, new, leave = gates.split(len(hidden))
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
    state = hidden
    for look in model.looks:
        asked = look.ask(look.norms[0](state))
        keys, values = look.key(places), look.value(places)
        size = len(state) // look.heads
        seen = []
        for head in range(look.heads):
            part = slice(head * size, (head + 1) * size)
            weight = torch.softmax(keys[:, part] @ asked[part] / size**0.5, dim=0)
            seen.append(weight @ values[:, part])
        state = state + torch.cat(seen)
        state = state + look.think(look.norms[1](state))
    return model.speak(state)


def slow_greedy(model, gallery, r, t) -> list[int]:
    """One word after another, each the likeliest that can be said."""
    said: list[int] = []
    while len(said) < MAX_WORDS:
        scores = slow_scores(model, gallery, r, t, said)
        scores[[PADDING, UNKNOWN]] = -torch.inf
        word = int(scores.argmax())
        if word == END:
            break
        said.append(word)
    return said


def test_scores_are_those_of_the_direct_computation(world):
    model, gallery = world
    reference, target = pairs_of(gallery, 6)
    said = torch.randint(2, len(model.vocabulary), (6, 5))
    tables = tables_of(model, gallery)
    with torch.inference_mode():
        pairs = torch.from_numpy(reference), torch.from_numpy(target)
        scores = model(tables, *pairs, said)
        assert scores.shape == (6, 6, len(model.vocabulary))
        for row in range(6):
            for place in range(6):
                spoken = said[row, :place].tolist()
                wanted = slow_scores(model, gallery, reference[row], target[row], spoken)
                np.testing.assert_allclose(scores[row, place], wanted, rtol=1e-3, atol=1e-3)


def test_greedy_words_are_the_likeliest_step_by_step(world):
    model, gallery = world
    reference, target = np.divmod(np.arange(N * N), N)
    with torch.inference_mode():
        ids = model.decode(
            tables_of(model, gallery), torch.from_numpy(reference), torch.from_numpy(target)
        )
        assert ids.shape == (N * N, MAX_WORDS)
        lengths = set()
        for row in range(0, N * N, 5):
            wanted = slow_greedy(model, gallery, reference[row], target[row])
            assert ids[row].tolist() == wanted + [PADDING] * (MAX_WORDS - len(wanted))
            lengths.add(len(wanted))
    assert len(lengths) > 5 and {0, MAX_WORDS} <= lengths  # some end, some are cut
    assert not ((ids == END) | (ids == UNKNOWN)).any()


def test_likelihoods_are_products_over_the_words(world, monkeypatch):
    """Of what the user says, of random words, of nothing, of a sentence that is cut."""
    monkeypatch.setattr(captioner, "WEIGHED", 7)  # so that there are several parts
    model, gallery = world
    user = NeuralUser(model, gallery)
    assert isinstance(user, UserModel)
    reference, target = pairs_of(gallery, 24)
    said = user.describe(reference, target, np.random.default_rng(0))
    rng = np.random.default_rng(4)
    said[8:16] = [" ".join(rng.choice(KNOWN, size)) for size in (1, 2, 3, 5, 8, 15, 16, 17)]
    said[16:18] = ["", f"{KNOWN[0]} zebra {KNOWN[1]}"]  # a word that it never says
    told = user.log_likelihood(reference, target, said)
    assert told.shape == (24,) and (told < 0).all()
    for row, caption in enumerate(said):
        ids = model.vocabulary.encode([caption], MAX_WORDS)[0]
        words = [int(number) for number in ids if number != PADDING]
        wanted = 0.0
        for place, word in enumerate([*words, END][:MAX_WORDS]):
            scores = slow_scores(model, gallery, reference[row], target[row], words[:place])
            scores[[PADDING, UNKNOWN]] = -torch.inf
            if word != UNKNOWN:
                wanted += scores.log_softmax(0)[word].item()
        assert told[row] == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert {MAX_WORDS, 0} <= {len(caption.split()) for caption in said}
    assert len(user.log_likelihood(reference[:0], target[:0], [])) == 0


def test_a_batch_is_decoded_as_its_rows(world):
    model, gallery = world
    user = NeuralUser(model, gallery)
    reference, target = pairs_of(gallery, 60)
    rng = np.random.default_rng(0)
    together = user.describe(reference, target, rng)
    assert rng.random() == np.random.default_rng(0).random()  # nothing is left to chance
    assert len(set(together)) > 10
    for row in range(60):
        one = np.array([row])
        assert user.describe(reference[one], target[one], rng) == [together[row]]
        ids = slow_greedy(model, gallery, reference[row], target[row])
        assert together[row] == " ".join(KNOWN[number - 3] for number in ids)
    assert max(len(caption.split()) for caption in together) <= 16


def test_sampled_words_follow_the_draws(world):
    """Word by word: the draw falls into the word's share of the distribution."""
    model, gallery = world
    reference, target = pairs_of(gallery, 8)
    draws = torch.from_numpy(np.random.default_rng(5).random((8, MAX_WORDS)))
    temperature = 1.7
    ids = model.decode(
        tables_of(model, gallery),
        torch.from_numpy(reference),
        torch.from_numpy(target),
        draws,
        temperature,
    )
    with torch.inference_mode():
        for row in range(8):
            said: list[int] = []
            for place in range(MAX_WORDS):
                scores = slow_scores(model, gallery, reference[row], target[row], said)
                weights = np.exp(scores.double().numpy() / temperature)
                weights[[PADDING, UNKNOWN]] = 0
                shares = weights / weights.sum()
                left = float(draws[row, place])
                word = 0
                while left >= shares[word]:
                    left -= shares[word]
                    word += 1
                if word == END:
                    break
                said.append(word)
            assert ids[row].tolist() == said + [PADDING] * (MAX_WORDS - len(said))


def test_sampling_depends_on_a_dialogs_own_draws(world):
    model, gallery = world
    user = NeuralUser(model, gallery, temperature=1.5)
    reference, target = pairs_of(gallery, 30)
    rows = RowDraws([np.random.default_rng(seed) for seed in range(30)])
    together = user.describe(reference, target, rows)
    for row in range(30):
        one = np.array([row])
        alone = user.describe(reference[one], target[one], np.random.default_rng(row))
        assert alone == [together[row]]
    pairs = np.full(50, 3), np.full(50, 4)
    assert len(set(user.describe(*pairs, np.random.default_rng(0)))) > 10
    shared = SharedDraws(np.random.default_rng(0), 50)
    assert len(set(user.describe(*pairs, shared))) == 1


def test_a_low_temperature_keeps_to_the_likeliest_words(world):
    model, gallery = world
    pairs = pairs_of(gallery, 80)
    greedy = NeuralUser(model, gallery).describe(*pairs, np.random.default_rng(0))

    def agreement(temperature):
        user = NeuralUser(model, gallery, temperature)
        said = user.describe(*pairs, np.random.default_rng(0))
        return np.mean([a == b for a, b in zip(greedy, said, strict=True)])

    assert agreement(1e-3) > 0.95 > agreement(2.0)


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
def test_the_ends_of_the_interval_are_words_too(world, draw):
    model, gallery = world
    draws = torch.full((N, MAX_WORDS), draw, dtype=torch.float64)
    every = torch.arange(N)
    ids = model.decode(tables_of(model, gallery), every.flip(0), every, draws)
    assert ((ids >= 0) & (ids < len(model.vocabulary))).all()
    assert not ((ids == END) | (ids == UNKNOWN)).any()


def test_silence_at_once_is_an_empty_caption(world):
    model, gallery = world
    with torch.no_grad():
        model.speak[-1].bias[END] = 1e4
    assert NeuralUser(model, gallery).describe(*pairs_of(gallery, 5), None) == [""] * 5


def test_a_saved_captioner_speaks_alike(world, tmp_path):
    model, gallery = world
    path = tmp_path / "captioners" / "net.pt"
    model.save(path, {"bleu_1": 12.5})
    twin = RelativeCaptioner.load(path)
    assert not twin.training
    assert twin.vocabulary == model.vocabulary and twin.sizes == model.sizes
    for name, tensor in model.state_dict().items():  # the standardisation included
        assert torch.equal(tensor, twin.state_dict()[name]), name
    pairs = pairs_of(gallery, 40)
    said = [NeuralUser(one, gallery).describe(*pairs, None) for one in (model, twin)]
    assert said[0] == said[1]
    assert torch.load(path, weights_only=True)["report"] == {"bleu_1": 12.5}
    assert [item.name for item in path.parent.iterdir()] == ["net.pt"]


def test_a_neural_user_pickles(world):
    model, gallery = world
    user = NeuralUser(model, gallery)
    pairs = pairs_of(gallery, 20)
    for twin in (pickle.loads(pickle.dumps(user)), copy.deepcopy(user)):
        assert twin.describe(*pairs, None) == user.describe(*pairs, None)


def test_wrong_files_are_named(tmp_path, world):
    with pytest.raises(FileNotFoundError, match=r"no captioner at .*none.pt; train one with"):
        RelativeCaptioner.load(tmp_path / "none.pt")
    model, _ = world
    good = tmp_path / "good.pt"
    model.save(good)
    contents = {
        "text": b"not a checkpoint",
        "empty": b"",
        "short": good.read_bytes()[:-200],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"weights": {}}, tmp_path / "other")
    saved = torch.load(good, weights_only=True)
    torch.save({**saved, "words": saved["words"][:-1]}, tmp_path / "words")
    torch.save({**saved, "sizes": {**saved["sizes"], "places": 4}}, tmp_path / "sizes")
    torch.save(model, tmp_path / "pickled")  # a whole module: that would have to be unpickled
    for name in (*contents, "other", "words", "sizes", "pickled"):
        with pytest.raises(ValueError, match=rf"{name} is not a captioner that `train_captioner`"):
            RelativeCaptioner.load(tmp_path / name)


class Malicious:
    """Leaves a mark when it is unpickled freely."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_checkpoint_runs_nothing(tmp_path, world):
    model, _ = world
    path, mark = tmp_path / "net.pt", tmp_path / "ran"
    model.save(path)
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "report": Malicious(mark)}, path)
    with pytest.raises(ValueError, match="is not a captioner"):
        RelativeCaptioner.load(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # it would have


def test_features_of_another_encoder_are_refused(world):
    model, gallery = world
    bare = Gallery(gallery.names, gallery.features)
    with pytest.raises(ValueError, match="needs spatial features; extract them"):
        NeuralUser(model, bare)
    wrong = [
        (np.zeros((N, F_SIZE + 1), np.float32), gallery.grids, r"got \(8, 5, 9\)"),
        (gallery.features, gallery.grids[:, :4], r"got \(7, 5, 4\)"),
        (gallery.features, gallery.grids[:, :, :3], r"got \(7, 3, 9\)"),
    ]
    for features, grids, message in wrong:
        with pytest.raises(ValueError, match=rf"sizes \(7, 5, 9\), {message}; train it on"):
            NeuralUser(model, Gallery(gallery.names, features, grids=grids))


# ---- fitting


def test_targets_are_words_the_end_and_padding():
    vocabulary = Vocabulary(["a", "b"])
    ids = with_end(vocabulary, ["a b", "", "a " * 20])
    assert ids.shape == (3, 17)
    assert ids[0].tolist() == [3, 4, END] + [0] * 14
    assert ids[1].tolist() == [END] + [0] * 16
    assert ids[2].tolist() == [3] * 16 + [END]


@pytest.fixture(scope="module")
def handful() -> tuple[Gallery, list[Triplet]]:
    rng = np.random.default_rng(0)
    gallery = Gallery(
        tuple(map(str, range(N))),
        rng.normal(size=(N, F_SIZE)).astype(np.float32),
        grids=rng.normal(size=(N, G, C)).astype(np.float16),
    )
    said = [
        "has a red ball",
        "has no blue box and a ball",
        "a ball",
        "blue",
        "red and blue and red",
    ]
    triplets = [Triplet(row, said[row % 5], (row * 5 + 1) % N) for row in range(10)]
    return gallery, triplets


def loss_of(model, gallery, triplets) -> float:
    """Mean cross-entropy per word, the end included, by the slow computation."""
    losses = []
    with torch.inference_mode():
        for reference, caption, target in triplets:
            ids = [*model.vocabulary.encode([caption], len(caption.split()))[0].tolist(), END]
            for place, word in enumerate(ids):
                scores = slow_scores(model, gallery, reference, target, ids[:place])
                losses.append(-float(scores.log_softmax(-1)[word]))
    return float(np.mean(losses))


def test_a_handful_of_captions_is_learnt_by_heart(handful):
    gallery, triplets = handful
    model = fit_captioner(gallery, triplets, 120, 10, 1e-2, hidden_size=16)
    assert not model.training
    references, captions, targets = zip(*triplets, strict=True)
    said = NeuralUser(model, gallery).describe(np.array(references), np.array(targets), None)
    assert said == list(captions)
    begun = fit_captioner(gallery, triplets, 1, 10, 1e-5, hidden_size=16)
    assert loss_of(model, gallery, triplets) < 0.1 < 1.5 < loss_of(begun, gallery, triplets)


def test_fitting_is_fixed_by_its_seed(handful):
    gallery, triplets = handful
    one, same, other = (
        fit_captioner(gallery, triplets, 3, 4, hidden_size=16, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one.compare.weight, same.compare.weight)
    assert not torch.equal(one.compare.weight, other.compare.weight)
    assert one.vocabulary == Vocabulary.build(triplet.caption for triplet in triplets)
    grids = gallery.grids.astype(np.float32)
    np.testing.assert_allclose(one.grid_mean, grids.mean((0, 1)), atol=1e-5)


# ---- listening

SCENES = [
    scene_of(c0=ball(), c4=ball(1, 3, 2)),  # 0: a red ball, a large blue cube
    scene_of(c0=ball(), c4=ball(1, 3, 2), c8=ball(3, 4, 1)),  # 1: and a green cylinder
    scene_of(c0=ball(2, 3)),  # 2: a blue ball alone
    scene_of(c0=ball(), c8=ball(3, 4, 1)),  # 3: a red ball and a green cylinder
]


def test_faithful_captions_claim_nothing_false():
    listener = SceneListener(gallery_of(SCENES))
    cases = [
        ("has a green cylinder in the bottom right", 0, 1, True),
        ("has a green cylinder in the bottom left", 0, 1, False),
        ("has a green cylinder and has a red cube", 0, 1, False),
        ("the ball in the top left is blue", 0, 2, True),
        ("the blue cube is missing", 1, 3, True),
        ("the blue cube is missing", 0, 1, False),
        ("looks exactly the same", 2, 2, True),
        ("blah", 2, 2, False),
        ("", 0, 1, False),
    ]
    captions = [caption for caption, *_ in cases]
    pairs = np.array([[reference, target] for _, reference, target, _ in cases])
    assert listener.faithful(captions, pairs).tolist() == [case[3] for case in cases]


@pytest.mark.parametrize(
    ("caption", "reference", "target", "chance"),
    [
        ("has a green cylinder", 0, 1, 1 / 2),  # of 0, 1, 2, 3: true of 1 and 3
        ("has a green cylinder and has a blue cube", 0, 1, 1.0),  # both are true of 1 alone
        ("has a blue ball", 0, 2, 1.0),
        ("has a blue ball", 0, 1, 0.0),  # misled: it is true of 2
        ("blah", 0, 1, 1 / 4),  # knows nothing
        ("blah and has a green cylinder", 0, 3, 1 / 2),  # takes what makes sense
        ("has more objects", 0, 1, 1.0),
    ],
)
def test_a_listener_guesses_among_what_fits_best(caption, reference, target, chance):
    """With every other image among the distractors, the answer is known beforehand."""

    class EveryOther:
        def integers(self, high, size):
            return np.arange(high)

    listener = SceneListener(gallery_of(SCENES))
    pairs = np.array([[reference, target]])
    (found,) = listener.discriminates([caption], pairs, EveryOther(), others=3)
    assert found == pytest.approx(chance)


def test_distractors_are_other_images_and_as_many_as_asked(tiny_gallery):
    listener = SceneListener(tiny_gallery)
    pairs = np.stack(pairs_of(tiny_gallery, 200), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    rng = np.random.default_rng(0)
    blank = listener.discriminates(["blah"] * len(pairs), pairs, rng)
    np.testing.assert_allclose(blank, 1 / 11)
    few = listener.discriminates(["blah"] * len(pairs), pairs, rng, others=4)
    np.testing.assert_allclose(few, 1 / 5)
    # "the same as the reference" picks the reference out: never the target, unless it is absent
    same = listener.discriminates(["looks exactly the same"] * len(pairs), pairs, rng, others=40)
    assert set(np.round(same, 6)) <= {0.0, round(1 / 41, 6)} and (same == 0).any()
    truth = AttributeUser(tiny_gallery).describe(pairs[:, 0], pairs[:, 1], rng)
    assert listener.discriminates(truth, pairs, rng).mean() > 0.6


def test_only_scenes_can_be_listened_to(tiny_gallery):
    for kind, attributes in (("shoes", tiny_gallery.attributes), ("css-3d", None)):
        other = Gallery(tiny_gallery.names, tiny_gallery.features, attributes, kind=kind)
        with pytest.raises(ValueError, match="only captions about CSS scenes"):
            SceneListener(other)


# ---- the report


def test_the_report_lies_in_the_checkpoint_and_beside_it(tiny_root, tmp_path, capsys):
    path = tmp_path / "net.pt"
    numbers = train_and_report(
        tiny_root, "3d", "scene-cnn", path, epochs=1, batch_size=64, hidden_size=16
    )
    assert json.loads(path.with_suffix(".json").read_text()) == numbers
    assert torch.load(path, weights_only=True)["report"] == numbers
    told = capsys.readouterr().err
    assert format_report(numbers) in told
    assert f"BLEU-1..4 {numbers['bleu_1']:.1f}" in told
    gallery, triplets = css.load(tiny_root, "test", "3d")
    assert report(RelativeCaptioner.load(path), gallery, triplets) == pytest.approx(numbers)
    assert numbers["pairs"] == len({(t.reference, t.target) for t in triplets})


def test_the_report_counts_by_hand(tiny_root, tiny_captioner):
    """Its shares are those of the captions that the captioner says of the held-out pairs."""
    gallery, triplets = css.load(tiny_root, "test", "3d")
    captioner = RelativeCaptioner.load(tiny_captioner)
    numbers = report(captioner, gallery, triplets)
    pairs = np.array(list(dict.fromkeys((t.reference, t.target) for t in triplets)))
    captions = NeuralUser(captioner, gallery).describe(pairs[:, 0], pairs[:, 1], None)
    scenes = gallery.attributes.reshape(-1, 9, 3)
    faithful = [
        is_faithful(caption, scenes[shown], scenes[meant])
        for caption, (shown, meant) in zip(captions, pairs, strict=True)
    ]
    assert numbers["faithfulness"] == pytest.approx(np.mean(faithful))
    assert numbers["distinct_captions"] == len(set(captions))
    assert numbers["reference_faithfulness"] == 1.0
    assert 0.4 < numbers["reference_discrimination"] <= 1.0
    for key in ("bleu_1", "bleu_4", "cider_d", "vocabulary", "discrimination"):
        assert np.isfinite(numbers[key])


def test_data_without_captions_or_grids_is_refused(tiny_root, tmp_path):
    with pytest.raises(ValueError, match="encoder 'scene' lacks spatial features"):
        train_and_report(tiny_root, "3d", "scene", tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())
