"""The learning agents: the tracker is its composer, the published one its fact sheet."""

import copy

import numpy as np
import pytest
import torch

from agents.memories import TurnTransformer
from agents.supervised import Training, pretrain_epoch
from agents.tracker import AGENTS, DialogTracker, PublishedTracker, TrackerAgent
from envs.dialog import Dialog, Observation
from retrieval.composers import COMPOSERS
from retrieval.text import PADDING

BATCH = 6


def make(name: str, dialog: Dialog, **options: object) -> DialogTracker:
    torch.manual_seed(5)
    agent = AGENTS[name](dialog.vocabulary, dialog.gallery.features.shape[1], 32, **options)
    with torch.no_grad():  # BatchNorm that does something
        for module in agent.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.uniform_(0.5, 2)
                    module.bias.normal_(0, 0.2)
    return agent


def observe(dialog: Dialog, seed: int) -> Observation:
    """What B agents see at the start of B dialogs."""
    rng = np.random.default_rng(seed)
    target, reference = rng.permutation(len(dialog.gallery))[: 2 * BATCH].reshape(2, BATCH)
    return dialog.observe(dialog.listen(dialog.start(target, reference), rng))


# the tracker


READERS = [name for name in COMPOSERS if COMPOSERS[name].form == "vector"]


@pytest.mark.parametrize("composer", READERS)
def test_every_composer_of_vectors_trains_in_dialogs(composer: str, tiny_dialog: Dialog) -> None:
    """All of its parameters learn, but for the decoders of losses that dialogs leave out."""
    agent = make("tracker", tiny_dialog, composer=composer)
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.1)
    (step,) = pretrain_epoch(agent, tiny_dialog, optimizer, 0, Training(16, 16, 2))
    assert np.isfinite(step.loss)
    parameters = dict(agent.named_parameters())
    resting = {name for name, each in parameters.items() if each.grad is None}
    deaf = {name for name in parameters if name.startswith("text.") and composer == "image_only"}
    decoders = {name for name in parameters if "_decoder." in name}
    assert resting == deaf | decoders
    assert bool(decoders) == composer.endswith("_ae")


@pytest.mark.parametrize("composer", READERS)
def test_without_memory_the_query_is_the_composers_output(
    composer: str, tiny_dialog: Dialog
) -> None:
    agent = make("tracker", tiny_dialog, composer=composer, memory="none")
    assert isinstance(agent, TrackerAgent)
    seen = observe(tiny_dialog, 0)
    begins = np.ones(BATCH, dtype=bool)
    query, memory = agent.predict(seen, None, begins)

    agent.eval()
    with torch.inference_mode():
        reference = agent.image(torch.from_numpy(seen["reference"]))
        reference = torch.nn.functional.normalize(reference, dim=-1)
        caption = agent.text(torch.from_numpy(seen["caption"]))
        composed = agent.composer(reference, caption)
    assert memory is None
    assert query.dtype == np.float32
    assert torch.equal(torch.from_numpy(query), composed)  # to the last bit

    again, _ = agent.predict(seen, memory, ~begins)
    assert np.array_equal(again, query)  # it remembers nothing


@pytest.mark.parametrize(
    ("name", "options"), [(name, {}) for name in AGENTS] + [("tracker", {"memory": "transformer"})]
)
def test_memory_matters_and_a_new_dialog_forgets_it(
    name: str, options: dict[str, str], tiny_dialog: Dialog
) -> None:
    agent = make(name, tiny_dialog, **options)
    first, second = observe(tiny_dialog, 0), observe(tiny_dialog, 1)
    _, memory = agent.predict(first, None, np.ones(BATCH, dtype=bool))
    begins = np.array([True, False] * (BATCH // 2))
    fresh, _ = agent.predict(second, None, np.ones(BATCH, dtype=bool))
    kept, _ = agent.predict(second, memory, np.zeros(BATCH, dtype=bool))
    mixed, _ = agent.predict(second, memory, begins)
    assert (np.abs(kept - fresh).max(axis=1) > 1e-4).all()
    np.testing.assert_allclose(mixed[begins], fresh[begins], atol=1e-6)
    np.testing.assert_allclose(mixed[~begins], kept[~begins], atol=1e-6)


def test_the_transformer_recalls_the_turns_there_were() -> None:
    """As if the history had been read at once, without places for turns that were not played."""
    memory = TurnTransformer(6, 8, layers=2, heads=2, window=5).eval()
    turns = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    history = None
    with torch.no_grad():
        for count in range(1, 5):
            recalled, history = memory(turns[:, count - 1], history)
            tokens = memory.token(turns[:, :count]) + memory.age[5 - count :]
            causal = torch.nn.Transformer.generate_square_subsequent_mask(count)
            whole = memory.layers(tokens, mask=causal, is_causal=True)[:, -1]
            torch.testing.assert_close(recalled, whole, rtol=1e-4, atol=1e-5)


def test_the_transformer_forgets_what_lies_beyond_its_window() -> None:
    memory = TurnTransformer(6, 8, window=2).eval()
    turns = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(0))
    long = short = None
    for turn in turns:
        recalled, long = memory(turn, long)
    for turn in turns[2:]:
        expected, short = memory(turn, short)
    torch.testing.assert_close(recalled, expected)


@pytest.mark.parametrize("name", AGENTS)
def test_predict_is_a_pure_function(name: str, tiny_dialog: Dialog) -> None:
    """It answers in eval mode, row by row, and leaves training mode and weights alone."""
    agent = make(name, tiny_dialog).train()
    before = copy.deepcopy(agent.state_dict())
    seen = observe(tiny_dialog, 0)
    query, _ = agent.predict(seen)
    assert agent.training
    again, _ = agent.predict(seen)
    assert np.array_equal(query, again)  # no dropout
    assert all(torch.equal(value, before[key]) for key, value in agent.state_dict().items())
    agent.eval()
    agent.predict(seen)
    assert not agent.training
    for row in range(BATCH):
        alone, _ = agent.predict({key: value[row : row + 1] for key, value in seen.items()})
        np.testing.assert_allclose(alone[0], query[row], atol=1e-5)


@pytest.mark.parametrize("text", ["gru", "lstm"])
def test_padding_never_counts(text: str, tiny_dialog: Dialog) -> None:
    """A caption reads the same alone, without padding, as among longer ones."""
    agent = make("tracker", tiny_dialog, text=text)
    seen = observe(tiny_dialog, 0)
    query, _ = agent.predict(seen)
    lengths = (seen["caption"] != PADDING).sum(1)
    assert len(set(lengths)) > 1
    for row, length in enumerate(lengths):
        alone = {key: value[row : row + 1] for key, value in seen.items()}
        alone["caption"] = np.ascontiguousarray(alone["caption"][:, :length])
        np.testing.assert_allclose(agent.predict(alone)[0][0], query[row], atol=1e-6)


def test_tracker_by_its_formula(tiny_dialog: Dialog) -> None:
    """h' = GRU([sqrt(D) x, t], h), q = norm(2 sigmoid(G h') x + W h'), written out."""
    agent = make("tracker", tiny_dialog).eval()
    first, second = observe(tiny_dialog, 0), observe(tiny_dialog, 1)
    _, memory = agent.predict(first)
    query, after = agent.predict(second, memory, np.zeros(BATCH, dtype=bool))
    assert isinstance(agent, TrackerAgent)
    with torch.inference_mode():
        reference = agent.embed(torch.from_numpy(second["reference"]))
        words = agent.text(torch.from_numpy(second["caption"]))
        composed = agent.composer(reference, words).double().numpy()
    state = {key: value.double().numpy() for key, value in agent.state_dict().items()}
    turn = np.concatenate([composed * np.sqrt(32), words.double().numpy()], axis=1)
    hidden = gru(turn, memory.double().numpy(), state)
    recalled = hidden @ state["recall.weight"].T + state["recall.bias"]
    raw = 2 / (1 + np.exp(-recalled[:, :32])) * composed + recalled[:, 32:]
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(after, hidden, atol=1e-5)
    np.testing.assert_allclose(query, expected, atol=1e-5)


def test_a_composer_that_does_not_hear_has_a_memory_that_does_not_either(
    tiny_dialog: Dialog,
) -> None:
    agent = make("tracker", tiny_dialog, composer="image_only")
    seen = observe(tiny_dialog, 0)
    other = seen | {"caption": np.roll(seen["caption"], 1, axis=0)}
    assert np.array_equal(agent.predict(seen)[0], agent.predict(other)[0])


def test_embeddings_are_unit_norm_and_of_the_image_layer(tiny_dialog: Dialog) -> None:
    agent = make("tracker", tiny_dialog)
    features = tiny_dialog.gallery.features
    embeddings = agent.index(features).embeddings
    weight, bias = (each.detach().numpy() for each in agent.get_submodule("image").parameters())
    raw = features @ weight.T + bias
    assert embeddings.shape == (len(features), 32)
    np.testing.assert_allclose(
        embeddings, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6
    )
    assert agent.index(features).ties == "half"
    assert agent.index(features, "optimistic").ties == "optimistic"


@pytest.mark.parametrize("name", AGENTS)
def test_features_of_another_size_are_refused(name: str, tiny_dialog: Dialog) -> None:
    agent = make(name, tiny_dialog)
    size = tiny_dialog.gallery.features.shape[1]
    with pytest.raises(ValueError, match=f"expects features of size {size}, got 7; use the"):
        agent.index(np.zeros((3, 7), np.float32))


def test_unknown_parts_are_named(tiny_dialog: Dialog) -> None:
    with pytest.raises(ValueError, match=r"unknown composer 'trig'\. Did you mean 'tirg'\?"):
        make("tracker", tiny_dialog, composer="trig")
    with pytest.raises(ValueError, match=r"unknown memory 'grus'\. Did you mean 'gru'\?"):
        make("tracker", tiny_dialog, memory="grus")
    with pytest.raises(ValueError, match=r"unknown text cell 'lstn'\. Did you mean 'lstm'\?"):
        make("tracker", tiny_dialog, text="lstn")


def test_a_composer_of_maps_is_refused_with_the_reason(tiny_dialog: Dialog) -> None:
    with pytest.raises(
        ValueError,
        match="tirg_last_conv reads the map of an image encoder, and a dialog agent has one "
        "feature vector per image; use one that reads vectors: compose_ae, .*, film, .*tirg$",
    ):
        make("tracker", tiny_dialog, composer="tirg_last_conv")


@pytest.mark.parametrize("text", ["gru", "lstm"])
def test_word_order_matters(text: str, tiny_dialog: Dialog) -> None:
    agent = make("tracker", tiny_dialog, text=text)
    seen = observe(tiny_dialog, 0)
    ids = seen["caption"].copy()
    ids[:, :2] = ids[:, 1::-1]  # the first two words change places
    swapped, _ = agent.predict({**seen, "caption": ids})
    assert np.abs(swapped - agent.predict(seen)[0]).max() > 1e-4


# the published tracker


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(x: np.ndarray, h: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """PyTorch's GRU cell: reset, update and new gate, in this order."""
    inputs = x @ state["memory.weight_ih"].T + state.get("memory.bias_ih", 0)
    hiddens = h @ state["memory.weight_hh"].T + state.get("memory.bias_hh", 0)
    (ir, iz, inew), (hr, hz, hnew) = np.split(inputs, 3, 1), np.split(hiddens, 3, 1)
    reset, update = sigmoid(ir + hr), sigmoid(iz + hz)
    new = np.tanh(inew + reset * hnew)
    return (1 - update) * new + update * h


def published_step(
    state: dict[str, np.ndarray], features: np.ndarray, ids: np.ndarray, hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """systems.md 2.2 for B dialogs, word pair by word pair."""
    image = features @ state["image.weight"].T + state["image.bias"]
    filters = state["text.pairs.weight"]  # (512 filters, 512 word numbers, 2 words)
    as_linear = filters.transpose(0, 2, 1).reshape(512, 1024)  # a linear map over word pairs
    texts = []
    for row in ids:
        word_vectors = [state["text.embedding.weight"][number] for number in row]
        places = [
            as_linear @ np.concatenate([word_vectors[at], word_vectors[at + 1]])
            + state["text.pairs.bias"]
            for at in range(15)
        ]
        largest = np.max(places, axis=0)
        centred = largest - state["text.norm.running_mean"]
        normed = centred / np.sqrt(state["text.norm.running_var"] + 1e-5)
        normed = normed * state["text.norm.weight"] + state["text.norm.bias"]
        texts.append(state["text.output.weight"] @ normed)
    x = (image + np.array(texts)) @ state["fuse.weight"].T
    hidden = gru(x, hidden, state)
    return hidden @ state["head.weight"].T, hidden


def test_published_tracker_by_its_fact_sheet(tiny_dialog: Dialog) -> None:
    agent = make("published", tiny_dialog)
    state = {key: value.double().numpy() for key, value in agent.state_dict().items()}
    hidden, memory = np.zeros((BATCH, 32)), None
    for turn in range(3):
        seen = observe(tiny_dialog, turn)
        assert seen["caption"].shape == (BATCH, 16)
        query, memory = agent.predict(seen, memory, np.full(BATCH, turn == 0))
        expected, hidden = published_step(state, seen["reference"], seen["caption"], hidden)
        np.testing.assert_allclose(query[:, :-1], expected, atol=1e-5)
        assert (query[:, -1] == 1).all()


def test_published_layers_sizes_and_biases(tiny_dialog: Dialog) -> None:
    words, size = len(tiny_dialog.vocabulary), tiny_dialog.gallery.features.shape[1]
    agent = PublishedTracker(tiny_dialog.vocabulary, size)
    shapes = {name: tuple(each.shape) for name, each in agent.named_parameters()}
    assert shapes.pop("scale") == ()  # ours, for the improved policy loss
    assert shapes == {
        "image.weight": (256, size),
        "image.bias": (256,),
        "text.embedding.weight": (words, 512),
        "text.pairs.weight": (512, 512, 2),
        "text.pairs.bias": (512,),
        "text.norm.weight": (512,),
        "text.norm.bias": (512,),
        "text.output.weight": (256, 512),
        "fuse.weight": (256, 256),
        "memory.weight_ih": (768, 256),
        "memory.weight_hh": (768, 256),
        "head.weight": (256, 256),
    }


def scattered(dialog: Dialog) -> np.ndarray:
    """Features of quite different norms, where inner product and distance disagree."""
    rng = np.random.default_rng(2)
    size = dialog.gallery.features.shape[1]
    scales = rng.uniform(0.2, 5, size=(50, 1))
    return (scales * rng.standard_normal((50, size)) / size**0.5).astype(np.float32)


def test_published_order_is_squared_distance(tiny_dialog: Dialog) -> None:
    agent = make("published", tiny_dialog)
    features = scattered(tiny_dialog)
    query, _ = agent.predict(observe(tiny_dialog, 0))
    query[:, :-1] *= 4  # far enough from the origin for a direction to count
    state = {key: value.double().numpy() for key, value in agent.state_dict().items()}
    points = features @ state["image.weight"].T + state["image.bias"]
    index = agent.index(features)
    found, target = index.search(query, 50), np.arange(BATCH)
    rank = index.rank(query, target)
    by_product = np.argsort(-(query[:, :-1] @ points.T), axis=1)
    for row in range(BATCH):
        distance = [float(((query[row, :-1] - point) ** 2).sum()) for point in points]
        assert found[row].tolist() == sorted(range(50), key=distance.__getitem__)
        assert rank[row] == sum(other < distance[target[row]] for other in distance)
        assert found[row].tolist() != by_product[row].tolist()


def test_published_index_finds_an_image_by_its_own_embedding(tiny_dialog: Dialog) -> None:
    """A query at an image's own place is nearest to that image."""
    agent = make("published", tiny_dialog)
    features = scattered(tiny_dialog)
    with torch.inference_mode():
        at = agent.asked(agent.embed(torch.from_numpy(features))).numpy()
    assert (agent.index(features).search(at, 1)[:, 0] == np.arange(50)).all()
