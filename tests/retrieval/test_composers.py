"""Every registered composer, and each against its formula written out in NumPy."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval.composers import COMPOSERS, TIRG, ComposeAE, Composer, LevelFusion
from retrieval.composers.comquery_former import RegionLearner
from retrieval.composers.cross_modal import CrossModalBlock

DIM, TEXT, BATCH = 6, 4, 5
VECTOR = [name for name in COMPOSERS if COMPOSERS[name].form == "vector"]


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(BATCH, DIM, generator=generator)
    return torch.nn.functional.normalize(reference, dim=-1), torch.randn(
        BATCH, DIM, generator=generator
    )


def trained_a_little(name: str, text_dim: int = DIM) -> Composer:
    """A composer whose BatchNorm statistics, gains and biases are not the initial ones."""
    torch.manual_seed(7)
    composer = COMPOSERS[name](DIM, text_dim)
    with torch.no_grad():
        for parameter in composer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    composer.train()
    for _ in range(3):
        if composer.form == "map":
            composer(torch.randn(16, DIM, 3, 2) + 1, 2 * torch.randn(16, text_dim))
        else:
            composer(torch.randn(16, DIM) + 1, 2 * torch.randn(16, text_dim))
    return composer.eval()


def weigh(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A stand-in for a metric loss."""
    return (one * other).sum()


@pytest.mark.parametrize("name", VECTOR)
def test_queries_have_unit_norm(name: str, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    composer = trained_a_little(name)
    for training in (True, False):
        query = composer.train(training)(*inputs)
        assert query.shape == (BATCH, DIM)
        np.testing.assert_allclose(query.norm(dim=-1).detach(), 1, atol=1e-6)


@pytest.mark.parametrize("name", VECTOR)
def test_every_parameter_and_both_inputs_get_a_gradient(
    name: str, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    composer = trained_a_little(name).train()
    reference, caption = (each.clone().requires_grad_() for each in inputs)
    weights = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1))
    query = composer(reference, caption)
    more = composer.auxiliary_losses(reference, caption, weights, query, weigh)
    ((query * weights).sum() + sum(more.values())).backward()
    parameters = dict(composer.named_parameters())
    assert bool(parameters) == (name not in ("image_only", "text_only"))
    for label, parameter in parameters.items():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().max() > 0, label
    assert (reference.grad is not None) == (name != "text_only")
    assert (caption.grad is not None) == (name != "image_only")


@pytest.mark.parametrize("name", VECTOR)
def test_a_row_depends_on_its_own_row_alone(
    name: str, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    composer = trained_a_little(name)
    reference, caption = inputs
    before = composer(reference, caption)
    for row in range(BATCH):
        others = torch.arange(BATCH) != row
        changed_reference, changed_caption = reference.clone(), caption.clone()
        changed_reference[others] = torch.randn(BATCH - 1, DIM)
        changed_caption[others] = torch.randn(BATCH - 1, DIM)
        after = composer(changed_reference, changed_caption)
        torch.testing.assert_close(after[row], before[row], rtol=0, atol=1e-6)
        assert not torch.allclose(after[others], before[others], atol=1e-3)
        alone = composer(reference[row : row + 1], caption[row : row + 1])[0]
        torch.testing.assert_close(alone, before[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", VECTOR)
def test_saved_equals_loaded(
    name: str, inputs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    composer = trained_a_little(name)
    torch.save(composer.state_dict(), tmp_path / "composer.pt")
    torch.manual_seed(99)
    other = COMPOSERS[name](DIM).eval()
    if name not in ("image_only", "text_only"):
        assert not torch.equal(other(*inputs), composer(*inputs))
    other.load_state_dict(torch.load(tmp_path / "composer.pt", weights_only=True))
    assert torch.equal(other(*inputs), composer(*inputs))


def test_the_baselines_repeat_their_input(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    reference, caption = inputs
    image_only = COMPOSERS["image_only"](DIM)(reference, caption)
    text_only = COMPOSERS["text_only"](DIM)(reference, caption)
    torch.testing.assert_close(image_only, reference / reference.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(text_only, caption / caption.norm(dim=-1, keepdim=True))


# TIRG


def batch_norm(rows: np.ndarray, prefix: str, state: dict[str, np.ndarray]) -> np.ndarray:
    mean, var = state[f"{prefix}.running_mean"], state[f"{prefix}.running_var"]
    scaled = (rows - mean) / np.sqrt(var + 1e-5)
    return scaled * state[f"{prefix}.weight"] + state[f"{prefix}.bias"]


def linear(rows: np.ndarray, prefix: str, state: dict[str, np.ndarray]) -> np.ndarray:
    return rows @ state[f"{prefix}.weight"].T + state[f"{prefix}.bias"]


def relu(rows: np.ndarray) -> np.ndarray:
    return np.maximum(rows, 0)


def test_tirg_is_the_published_formula(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    """f = a0 sigmoid(gate) * img + a1 residual; both branches BN, ReLU, Linear[, ReLU, Linear]."""
    composer = trained_a_little("tirg")
    state = {key: value.double().numpy() for key, value in composer.state_dict().items()}
    reference, caption = (each.double().numpy() for each in inputs)
    expected = []
    for image, text in zip(reference, caption, strict=True):
        both = np.concatenate([image, text])
        gate = linear(relu(batch_norm(both, "gate.0", state)), "gate.2", state)
        hidden = relu(linear(relu(batch_norm(both, "residual.0", state)), "residual.2", state))
        residual = linear(hidden, "residual.4", state)
        mixed = state["weights"][0] / (1 + np.exp(-gate)) * image + state["weights"][1] * residual
        expected.append(mixed / np.sqrt((mixed**2).sum()))
    np.testing.assert_allclose(composer(*inputs).detach(), expected, atol=1e-5)


def test_tirg_layers_have_the_published_sizes() -> None:
    shapes = {name: tuple(each.shape) for name, each in TIRG(DIM).named_parameters()}
    assert shapes == {
        "weights": (2,),
        "gate.0.weight": (2 * DIM,),
        "gate.0.bias": (2 * DIM,),
        "gate.2.weight": (DIM, 2 * DIM),
        "gate.2.bias": (DIM,),
        "residual.0.weight": (2 * DIM,),
        "residual.0.bias": (2 * DIM,),
        "residual.2.weight": (2 * DIM, 2 * DIM),
        "residual.2.bias": (2 * DIM,),
        "residual.4.weight": (DIM, 2 * DIM),
        "residual.4.bias": (DIM,),
    }


def test_tirg_starts_at_half_the_image(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Anchor: gate output 0 and residual 0 give 0.5 img, with the initial weights 1 and 10."""
    composer = TIRG(DIM).eval()
    assert composer.weights.tolist() == [1.0, 10.0]
    with torch.no_grad():
        for layer in (composer.gate[-1], composer.residual[-1]):
            layer.weight.zero_()
            layer.bias.zero_()
        reference, caption = inputs
        torch.testing.assert_close(composer.compose(reference, caption), 0.5 * reference)
        composer.residual[-1].bias.fill_(1.0)  # the residual counts ten times
        torch.testing.assert_close(composer.compose(reference, caption), 0.5 * reference + 10.0)


def state_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: value.double().numpy() for key, value in module.state_dict().items()}


@pytest.fixture
def captions() -> torch.Tensor:
    """Encoded captions of another size than the embeddings'."""
    return torch.randn(BATCH, TEXT, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("name", sorted(set(VECTOR) - {"image_only"}))
def test_captions_of_another_size_are_read(
    name: str, inputs: tuple[torch.Tensor, torch.Tensor], captions: torch.Tensor
) -> None:
    composer = trained_a_little(name, TEXT)
    query = composer(inputs[0], captions)
    assert query.shape == (BATCH, DIM)
    assert not torch.allclose(query, composer(inputs[0], captions.flip(0)), atol=1e-3)
    assert torch.allclose(query, composer(inputs[0].flip(0), captions), atol=1e-3) == (
        name == "text_only"
    )


def mapping(rows: np.ndarray, prefix: str, state: dict[str, np.ndarray]) -> np.ndarray:
    """BatchNorm, ReLU, Linear, ReLU, Linear."""
    hidden = relu(linear(relu(batch_norm(rows, f"{prefix}.0", state)), f"{prefix}.2", state))
    return linear(hidden, f"{prefix}.4", state)


# MRN, FiLM, Relationship


def test_mrn_is_three_residual_blocks(
    inputs: tuple[torch.Tensor, torch.Tensor], captions: torch.Tensor
) -> None:
    composer = trained_a_little("mrn", TEXT)
    state = state_of(composer)
    image, heard = inputs[0].double().numpy(), captions.double().numpy()
    for block in ("blocks.0", "blocks.1", "blocks.2"):
        seen = np.tanh(linear(image, f"{block}.seen.0", state))
        seen = np.tanh(linear(seen, f"{block}.seen.2", state))
        said = np.tanh(linear(heard, f"{block}.heard.0", state))
        heard = linear(heard, f"{block}.shortcut", state) + said * seen
    np.testing.assert_allclose(composer.compose(inputs[0], captions).detach(), heard, atol=1e-5)
    assert "blocks.3.shortcut.weight" not in state


def test_film_scales_and_shifts_what_is_normalised(
    inputs: tuple[torch.Tensor, torch.Tensor], captions: torch.Tensor
) -> None:
    composer = trained_a_little("film", TEXT)
    state = state_of(composer)
    features = inputs[0].double().numpy()
    numbers = linear(captions.double().numpy(), "modulation", state)  # (B, 4 * 2 * D)
    assert numbers.shape == (BATCH, 4 * 2 * DIM)
    for block in range(4):
        at = block * 2 * DIM
        gain, shift = numbers[:, at : at + DIM], numbers[:, at + DIM : at + 2 * DIM]
        features = relu(linear(features, f"blocks.{block}.first", state))
        inner = features @ state[f"blocks.{block}.second.weight"].T
        mean = state[f"blocks.{block}.norm.running_mean"]
        inner = (inner - mean) / np.sqrt(state[f"blocks.{block}.norm.running_var"] + 1e-5)
        features = features + relu(inner + gain * inner + shift)
    wanted = linear(features, "output", state)
    np.testing.assert_allclose(
        composer.compose(inputs[0], captions).detach(), wanted, rtol=1e-4, atol=1e-4
    )


def test_relationship_is_a_loop_over_pairs(
    inputs: tuple[torch.Tensor, torch.Tensor], captions: torch.Tensor
) -> None:
    composer = trained_a_little("relationship", TEXT)
    state = state_of(composer)
    answer = composer.compose(inputs[0], captions).detach()
    for row in range(2):
        image, text = inputs[0][row].double().numpy(), captions[row].double().numpy()
        parts = linear(image, "parts", state).reshape(8, 64)
        seen = []
        for first in parts:
            for second in parts:
                hidden = np.concatenate([first, second, text])
                for layer in (0, 2):
                    hidden = relu(linear(hidden, f"pairs.{layer}", state))
                seen.append(hidden)
        hidden = np.mean(seen, axis=0)
        hidden = relu(linear(hidden, "output.0", state))
        np.testing.assert_allclose(answer[row], linear(hidden, "output.2", state), rtol=1e-3)


# TIRG on the last map


def convolve(maps: np.ndarray, prefix: str, state: dict[str, np.ndarray]) -> np.ndarray:
    """A 3x3 convolution with a border of zeros of one map (C, H, W), place by place."""
    weight, bias = state[f"{prefix}.weight"], state[f"{prefix}.bias"]
    height, width = maps.shape[1:]
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    return np.array(
        [
            [
                [
                    (weight[channel] * padded[:, y : y + 3, x : x + 3]).sum() + bias[channel]
                    for x in range(width)
                ]
                for y in range(height)
            ]
            for channel in range(len(weight))
        ]
    )


def test_tirg_last_conv_edits_the_map_place_by_place(captions: torch.Tensor) -> None:
    """BN, convolution, ReLU, convolution in both branches; no ReLU after the norm."""
    composer = trained_a_little("tirg_last_conv", TEXT)
    state = state_of(composer)
    maps = torch.randn(2, DIM, 3, 2, generator=torch.Generator().manual_seed(2))
    answer = composer(maps, captions[:2]).detach()
    assert answer.shape == maps.shape
    for row in range(2):
        image, text = maps[row].double().numpy(), captions[row].double().numpy()
        both = np.concatenate([image, np.tile(text[:, None, None], (1, 3, 2))])

        def branch(name: str, both: np.ndarray = both) -> np.ndarray:
            normal = batch_norm(both.transpose(1, 2, 0), f"{name}.0", state).transpose(2, 0, 1)
            return convolve(relu(convolve(normal, f"{name}.1", state)), f"{name}.3", state)

        weights = state["weights"]
        kept = weights[0] / (1 + np.exp(-branch("gate"))) * image
        np.testing.assert_allclose(answer[row], kept + weights[1] * branch("residual"), rtol=1e-3)


def test_tirg_last_conv_starts_at_half_the_map(captions: torch.Tensor) -> None:
    """Anchor: gate 0 and residual 0 give 0.5 img; the four published numbers a."""
    composer = COMPOSERS["tirg_last_conv"](DIM, TEXT).eval()
    assert dict(composer.named_parameters())["weights"].tolist() == [1, 10, 1, 1]
    with torch.no_grad():
        for branch in ("gate", "residual"):
            for parameter in composer.get_submodule(f"{branch}.3").parameters():
                parameter.zero_()
    maps = torch.randn(BATCH, DIM, 3, 2)
    torch.testing.assert_close(composer(maps, captions), 0.5 * maps)


# ComposeAE


def projected(
    prefix: str, image: np.ndarray, text: np.ndarray, state: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Length and angle; dropout is off."""
    length = relu(
        linear(batch_norm(image, f"{prefix}.length.0", state), f"{prefix}.length.1", state)
    )
    angle = relu(linear(batch_norm(text, f"{prefix}.angle.0", state), f"{prefix}.angle.1", state))
    return linear(length, f"{prefix}.length.4", state), linear(angle, f"{prefix}.angle.3", state)


def pooled(rows: np.ndarray, places: int, state: dict[str, np.ndarray]) -> np.ndarray:
    """The convolution of one row set (channels, length), max-pooled, flattened."""
    weight, bias = (state[f"convolution.convolution.{name}"] for name in ("weight", "bias"))
    length = rows.shape[1]
    padded = np.pad(rows, ((0, 0), (1, 1)))
    seen = np.array(
        [
            [(w * padded[:, x : x + 3]).sum() + b for x in range(length)]
            for w, b in zip(weight, bias, strict=True)
        ]
    )  # (64, length)
    edges = [
        (place * length // places, -((-(place + 1) * length) // places)) for place in range(places)
    ]
    return np.array([[row[low:high].max() for low, high in edges] for row in seen]).flatten()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_compose_ae_turns_complex_numbers(
    sign: float, inputs: tuple[torch.Tensor, torch.Tensor], captions: torch.Tensor
) -> None:
    composer = trained_a_little("compose_ae", TEXT)
    assert isinstance(composer, ComposeAE)
    state = state_of(composer)
    answer = composer.rotate(inputs[0], captions, sign).detach()
    for row in range(BATCH):
        image, text = inputs[0][row].double().numpy(), captions[row].double().numpy()
        length, angle = projected("projection", image, text, state)
        turned = length * np.exp(1j * sign * angle)
        first = mapping(np.concatenate([turned.real, turned.imag]), "mapping", state)
        length, angle = projected("convolution_projection", image, text, state)
        turned = length * np.exp(1j * sign * angle)
        rows = np.array([length, angle, image, turned.real, turned.imag])
        second = mapping(pooled(rows, 16, state), "convolution.mapping", state)
        wanted = state["weights"][1] * first + state["weights"][0] * second
        np.testing.assert_allclose(answer[row], wanted, rtol=1e-3, atol=1e-4)


def test_compose_ae_weighs_its_losses(
    inputs: tuple[torch.Tensor, torch.Tensor], captions: torch.Tensor
) -> None:
    composer = trained_a_little("compose_ae", TEXT)
    assert isinstance(composer, ComposeAE)
    state = state_of(composer)
    target = torch.randn(BATCH, DIM)
    query = composer.compose(inputs[0], captions)
    losses = composer.auxiliary_losses(inputs[0], captions, target, query, weigh)
    raw = query.detach().double().numpy()
    image_error = (mapping(raw, "image_decoder", state) - inputs[0].numpy()) ** 2
    text_error = (mapping(raw, "text_decoder", state) - captions.numpy()) ** 2
    back = composer.rotate(target, captions, -1.0)
    wanted = {
        "image_reconstruction": 0.1 * image_error.mean(),
        "text_reconstruction": 0.1 * text_error.mean(),
        "rotational_symmetry": 0.01 * (back * inputs[0]).sum().item(),
    }
    assert {key: value.item() for key, value in losses.items()} == pytest.approx(wanted, rel=1e-4)


def test_turning_and_turning_back_is_nothing() -> None:
    """With length and angle given, the conjugate undoes the rotation."""
    projection = trained_a_little("compose_ae").get_submodule("projection")
    image, caption = torch.randn(BATCH, DIM), torch.randn(BATCH, DIM)
    length, angle, *there = projection(image, caption, 1.0)
    _, _, *back = projection(image, caption, -1.0)
    product = torch.complex(*there) * torch.complex(*back)
    torch.testing.assert_close(product.real, length.square())
    torch.testing.assert_close(product.imag, torch.zeros_like(length), atol=1e-4, rtol=0)
    torch.testing.assert_close(there[0], length * torch.cos(angle))


def test_real_space_concat_ae_is_its_formula(
    inputs: tuple[torch.Tensor, torch.Tensor], captions: torch.Tensor
) -> None:
    composer = trained_a_little("real_space_concat_ae", TEXT)
    state = state_of(composer)
    query = composer.compose(inputs[0], captions)
    for row in range(BATCH):
        both = np.concatenate([inputs[0][row].double().numpy(), captions[row].double().numpy()])
        second = mapping(pooled(both[None], 20, state), "convolution.mapping", state)
        wanted = state["weights"][1] * mapping(both, "mapping", state)
        wanted = wanted + state["weights"][0] * second
        np.testing.assert_allclose(query[row].detach(), wanted, rtol=1e-3, atol=1e-4)
    losses = composer.auxiliary_losses(inputs[0], captions, inputs[0], query, weigh)
    assert set(losses) == {"image_reconstruction", "text_reconstruction"}


def test_any_batch_size_composes(inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The released ComposeAE holds a conjugate of 32 rows and fails on any other batch."""
    composer = trained_a_little("compose_ae")
    for size in (2, 33, 200):
        reference, caption = torch.randn(size, DIM), torch.randn(size, DIM)
        losses = composer.auxiliary_losses(reference, caption, reference, reference, weigh)
        assert all(torch.isfinite(loss) for loss in losses.values())


# ComqueryFormer


def layer_norm(rows: np.ndarray, prefix: str, state: dict[str, np.ndarray]) -> np.ndarray:
    centred = rows - rows.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return scaled * state[f"{prefix}.weight"] + state[f"{prefix}.bias"]


def gelu(rows: np.ndarray) -> np.ndarray:
    return rows * 0.5 * (1 + np.vectorize(math.erf)(rows / np.sqrt(2)))


def attend(
    own: np.ndarray, read: np.ndarray, prefix: str, state: dict[str, np.ndarray], heads: int
) -> np.ndarray:
    """What each own token hears of the tokens read, head by head."""
    width = own.shape[-1]
    size = width // heads
    weight, bias = state[f"{prefix}.in_proj_weight"], state[f"{prefix}.in_proj_bias"]
    query = own @ weight[:width].T + bias[:width]
    key = read @ weight[width : 2 * width].T + bias[width : 2 * width]
    value = read @ weight[2 * width :].T + bias[2 * width :]
    heard = np.zeros_like(own)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for number, asked in enumerate(query[:, part]):
            scores = np.exp(key[:, part] @ asked / np.sqrt(size))
            heard[number, part] = scores / scores.sum() @ value[:, part]
    return linear(heard, f"{prefix}.out_proj", state)


def layer(
    own: np.ndarray, other: np.ndarray, prefix: str, state: dict[str, np.ndarray], heads: int
) -> np.ndarray:
    heard = attend(own, own, f"{prefix}.attend_self", state, heads)
    own = layer_norm(own + heard, f"{prefix}.norms.0", state)
    heard = attend(own, other, f"{prefix}.attend_other", state, heads)
    own = layer_norm(own + heard, f"{prefix}.norms.1", state)
    hidden = gelu(linear(own, f"{prefix}.feed_forward.0", state))
    own_after = own + linear(hidden, f"{prefix}.feed_forward.2", state)
    return layer_norm(own_after, f"{prefix}.norms.2", state)


def block(
    image: np.ndarray, text: np.ndarray, state: dict[str, np.ndarray], heads: int, layers: int
) -> np.ndarray:
    """Both streams read each other as it was before the layer."""
    for number in range(layers):
        image_before, text_before = image, text
        image = layer(image_before, text_before, f"block.image_layers.{number}", state, heads)
        if number < layers - 1:
            text = layer(text_before, image_before, f"block.text_layers.{number}", state, heads)
    return image


def shaken(module: torch.nn.Module, seed: int = 4) -> torch.nn.Module:
    """In eval mode, with weights of a size that matters."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def test_comquery_former_on_vectors_is_its_block_on_two_tokens(
    inputs: tuple[torch.Tensor, torch.Tensor], captions: torch.Tensor
) -> None:
    composer = trained_a_little("comquery_former", TEXT)
    state = state_of(composer)
    answer = composer.compose(inputs[0], captions).detach()
    for row in range(BATCH):
        image = linear(inputs[0][row].double().numpy(), "image", state) + state["types.weight"][1]
        text = linear(captions[row].double().numpy(), "text", state) + state["types.weight"][0]
        fused = block(image[None], text[None], state, heads=6, layers=4)[0]
        np.testing.assert_allclose(
            answer[row], linear(fused, "pooler", state), rtol=1e-3, atol=1e-4
        )


def test_padding_of_the_text_never_counts() -> None:
    module = shaken(CrossModalBlock(8, heads=2, layers=3))
    image, text = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    padding = torch.tensor([[False, False, True, True], [False, False, False, True]])
    with torch.no_grad():
        answer = module(image, text, padding)
        changed = text.clone()
        changed[padding] = 99.0
        torch.testing.assert_close(module(image, changed, padding), answer)
        alone = module(image[:1], text[:1, :2])
    torch.testing.assert_close(alone[0], answer[0], atol=1e-5, rtol=0)


def test_regions_are_masked_means() -> None:
    """Each mask times the map, averaged over places, at the learned norm, channel by channel."""
    learner = shaken(RegionLearner(6, regions=3))
    state = state_of(learner)
    maps = torch.randn(2, 6, 4, 3)
    answer = learner(maps).detach().numpy()
    for row in range(2):
        image = maps[row].double().numpy()
        masks = convolve(image, "masks", state)  # (3, 4, 3)
        regions = np.array([(mask[None] * image).mean((1, 2)) for mask in masks])  # (3, 6)
        regions *= state["scale"] / np.linalg.norm(regions, axis=1, keepdims=True)
        np.testing.assert_allclose(answer[row], regions.T.flatten(), rtol=1e-3, atol=1e-5)
    assert RegionLearner(6).scale.item() == 4.0


def test_levels_share_one_block_and_one_pooler() -> None:
    """Six features: on the query side after the block, on the target side straight away."""
    fusion = shaken(
        LevelFusion((5, 7, 3), (4, 4, 4), width=8, layers=2, heads=2, regions=2, dropout=0.1)
    )
    assert isinstance(fusion, LevelFusion)
    state = state_of(fusion)
    generator = torch.Generator().manual_seed(6)
    sides = ((4, 4), (2, 3), (2, 2))
    maps = [
        torch.randn(2, size, *side, generator=generator)
        for size, side in zip((5, 7, 3), sides, strict=True)
    ]
    texts = [torch.randn(2, 3, 4, generator=generator) for _ in range(3)]
    padding = torch.zeros(2, 3, dtype=torch.bool)
    scale = torch.tensor(3.0)
    with torch.no_grad():
        queries = fusion.query_features(maps, texts, padding, scale)
        targets = fusion.target_features(maps, scale)
    assert [each.shape[1] for each in queries] == [8, 16] * 3
    for level, side in enumerate(sides):
        for row in range(2):
            tokens = maps[level][row].double().numpy().reshape(-1, side[0] * side[1]).T
            image = linear(tokens, f"image.{level}", state)
            text = linear(texts[level][row].double().numpy(), f"text.{level}", state)
            fused = block(
                image + state["types.weight"][1], text + state["types.weight"][0], state, 2, 2
            )
            for which, tokens, answer in (("query", fused, queries), ("target", image, targets)):
                whole = np.tanh(linear(tokens.mean(0), "pooler.0", state))
                whole *= 3 / np.linalg.norm(whole)
                np.testing.assert_allclose(answer[2 * level][row], whole, rtol=1e-3, atol=1e-4)
                learner = fusion.get_submodule(f"{which}_regions.{level}")
                seen = torch.from_numpy(tokens.T.reshape(1, 8, *side)).float()
                torch.testing.assert_close(
                    answer[2 * level + 1][row], learner(seen)[0].detach(), rtol=1e-3, atol=1e-4
                )


def test_new_parts_start_small() -> None:
    """Linears and embeddings N(0, 0.02), zero biases; region convolutions as the framework does."""
    torch.manual_seed(0)
    fusion = LevelFusion((64, 64, 64), (64, 64, 64), width=128, layers=1, heads=2)
    for name, parameter in fusion.named_parameters():
        if name.endswith("bias") and "masks" not in name:
            assert parameter.abs().max() == 0, name
        elif "norms" in name:
            assert (parameter == 1).all(), name
        elif "masks" in name:
            assert parameter.std() < 1 / np.sqrt(128 * 9), name
        elif parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
