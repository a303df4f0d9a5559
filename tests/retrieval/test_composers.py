"""Every registered composer, and TIRG against its formula written out in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from retrieval.composers import COMPOSERS, TIRG, Composer

DIM, BATCH = 6, 5


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(BATCH, DIM, generator=generator)
    return torch.nn.functional.normalize(reference, dim=-1), torch.randn(
        BATCH, DIM, generator=generator
    )


def trained_a_little(name: str) -> Composer:
    """A composer whose BatchNorm statistics, gains and biases are not the initial ones."""
    torch.manual_seed(7)
    composer = COMPOSERS[name](DIM)
    with torch.no_grad():
        for parameter in composer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    composer.train()
    for _ in range(3):
        composer(torch.randn(16, DIM) + 1, 2 * torch.randn(16, DIM))
    return composer.eval()


@pytest.mark.parametrize("name", COMPOSERS)
def test_queries_have_unit_norm(name: str, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    composer = trained_a_little(name)
    for training in (True, False):
        query = composer.train(training)(*inputs)
        assert query.shape == (BATCH, DIM)
        np.testing.assert_allclose(query.norm(dim=-1).detach(), 1, atol=1e-6)


@pytest.mark.parametrize("name", COMPOSERS)
def test_every_parameter_and_both_inputs_get_a_gradient(
    name: str, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    composer = trained_a_little(name).train()
    reference, caption = (each.clone().requires_grad_() for each in inputs)
    weights = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1))
    (composer(reference, caption) * weights).sum().backward()
    parameters = dict(composer.named_parameters())
    assert bool(parameters) == (name not in ("image_only", "text_only"))
    for label, parameter in parameters.items():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().max() > 0, label
    assert (reference.grad is not None) == (name != "text_only")
    assert (caption.grad is not None) == (name != "image_only")


@pytest.mark.parametrize("name", COMPOSERS)
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


@pytest.mark.parametrize("name", COMPOSERS)
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
