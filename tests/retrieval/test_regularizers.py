"""Gradient augmentation against hand-worked linear models, finite differences and loops."""

import pytest
import torch
from torch import Tensor, nn

from retrieval.losses import METRICS, make_metric
from retrieval.regularizers import (
    ISOTROPIC_WEIGHTS,
    GradientAugmentation,
    adversarial_penalty,
    isotropic_term,
)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=chance(seed), dtype=torch.float64)


# explicit


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_penalty_of_a_linear_loss(batch: int) -> None:
    """L = mean_i w.x_i: the penalty is 1e-6 * |w|_1 / 2, whatever the batch."""
    slope = draw(3, 4, 4, seed=1)
    images = draw(batch, 3, 4, 4).requires_grad_()
    loss = (images * slope).flatten(1).sum(1).mean()
    expected = 1e-6 * sum(abs(value) for value in slope.flatten().tolist()) / 2
    assert adversarial_penalty(loss, images).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, 4.0])
def test_penalty_of_other_norms(norm: float) -> None:
    """lambda' = lambda * d^(1 - 1/q), and one q-norm for each image."""
    slopes = draw(5, 6, seed=1)
    images = draw(5, 6).requires_grad_()
    loss = (images * slopes).sum(1).mean()
    by_image = [sum(abs(value) ** norm for value in row) ** (1 / norm) for row in slopes.tolist()]
    expected = 0.3 * 6 ** (1 - 1 / norm) * sum(by_image) / 5 / 2
    penalty = adversarial_penalty(loss, images, weight=0.3, norm=norm)
    assert penalty.item() == pytest.approx(expected, rel=1e-9)


def test_units_of_the_pixels() -> None:
    """Images in [0, 1] with a unit per channel are the normalised images without one."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 1)).double()
    spread = torch.tensor([0.2, 0.5, 0.1], dtype=torch.float64).view(3, 1, 1)
    plain = draw(2, 3, 5, 5)
    normalised = (plain / spread).requires_grad_()
    plain.requires_grad_()
    one = adversarial_penalty(net(plain / spread).mean(), plain, unit=spread)
    other = adversarial_penalty(net(normalised).mean(), normalised)
    assert one.item() == pytest.approx(other.item(), rel=1e-9)
    without = adversarial_penalty(net(plain / spread).mean(), plain)
    assert without.item() != pytest.approx(other.item(), rel=0.1)


@pytest.mark.parametrize("loss", METRICS)
def test_the_penalty_moves_the_parameters(loss: str) -> None:
    """Its second-order gradient is the finite difference of its value, under either loss."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    images, targets = draw(6, 5), draw(6, 4, seed=1)

    def penalty() -> Tensor:
        seen = images.clone().requires_grad_()
        value = make_metric(loss, chance(3))(net(seen), targets)
        return adversarial_penalty(value, seen, weight=1.0, norm=2.0)

    penalty().backward()
    weight = net[0].weight
    assert weight.grad is not None
    for place in ((0, 0), (3, 2), (5, 4)):
        step = 1e-5
        with torch.no_grad():
            weight[place] += step
        above = penalty().item()
        with torch.no_grad():
            weight[place] -= 2 * step
        below = penalty().item()
        with torch.no_grad():
            weight[place] += step
        slope = (above - below) / (2 * step)
        assert weight.grad[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert weight.grad.abs().max() > 1e-3


def test_the_penalty_foretells_the_worst_case() -> None:
    """With lambda = 2 eps it is what eps on every pixel adds to the loss, to first order."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    images = draw(4, 8).requires_grad_()
    loss = net(images).mean()
    eps = 1e-5
    (slope,) = torch.autograd.grad(loss, images, retain_graph=True)
    worst = net(images + eps * slope.sign()).mean() - loss
    assert adversarial_penalty(loss, images, weight=2 * eps).item() == pytest.approx(
        worst.item(), rel=1e-3
    )


def test_a_loss_that_ignores_the_images_has_no_penalty() -> None:
    images = draw(3, 4).requires_grad_()
    other = draw(3, 4, seed=1).requires_grad_()
    assert adversarial_penalty(other.mean(), images).item() == 0


def test_what_the_penalty_refuses() -> None:
    with pytest.raises(ValueError, match="requires_grad_"):
        adversarial_penalty(torch.ones(()), torch.ones(2, 2))
    images = draw(2, 2).requires_grad_()
    with pytest.raises(ValueError, match="at least 1, got 0.5"):
        adversarial_penalty(images.mean(), images, norm=0.5)


# implicit


def noisy_gradients(mode: str, times: int, weight: float | None = None) -> list[Tensor]:
    """Gradients of the term on three tensors, one row a draw."""
    parameters = [nn.Parameter(torch.ones(shape)) for shape in ((2,), (), (3, 4))]
    rows: list[list[Tensor]] = [[], [], []]
    generator = chance(5)
    for _ in range(times):
        term = isotropic_term(parameters, generator, mode, weight)
        for row, slope in zip(rows, torch.autograd.grad(term, parameters), strict=True):
            row.append(slope.flatten())
    return [torch.stack(row) for row in rows]


@pytest.mark.parametrize("mode", ISOTROPIC_WEIGHTS)
def test_noise_of_each_mode(mode: str) -> None:
    """Mean and spread of the gradient of tensor j of P = 3, which has n elements."""
    found = noisy_gradients(mode, times=4000)
    for number, (slopes, size) in enumerate(zip(found, (2, 1, 12), strict=True)):
        mean, spread = {
            "faithful": (0.01 * (3 - number) / size, 0.01 * (3 - number) / size),
            "intended": (0.0, 0.01 / size),
            "noise": (0.0, 1e-4),
        }[mode]
        torch.testing.assert_close(slopes.mean(0), torch.full((size,), mean), rtol=0,
                                   atol=5 * spread / 4000**0.5)  # fmt: skip
        torch.testing.assert_close(slopes.std(0), torch.full((size,), spread), rtol=0.08, atol=0)


def test_the_released_loop() -> None:
    """The running sum added inside the loop, as released, gives the same value."""
    parameters = [draw(2, 3), draw(4, seed=1), draw(1, seed=2)]
    generator = chance(9)
    running, total = 0.0, 0.0
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator).double()
        running += (noise * parameter).mean().item() + parameter.mean().item()
        total += 0.01 * running
    term = isotropic_term(parameters, chance(9), "faithful")
    assert term.item() == pytest.approx(total, rel=1e-9)


def test_noise_is_fresh_and_from_the_generator() -> None:
    parameters = [draw(5)]
    generator = chance(1)
    first, second = (isotropic_term(parameters, generator, "intended") for _ in range(2))
    assert first.item() != second.item()
    again = isotropic_term(parameters, chance(1), "intended")
    assert again.item() == first.item()


def test_what_the_term_refuses() -> None:
    with pytest.raises(ValueError, match="Did you mean 'faithful'"):
        isotropic_term([draw(2)], chance(), "faithfull")
    with pytest.raises(ValueError, match="got none"):
        isotropic_term([], chance())
    with pytest.raises(ValueError, match="isotropic mode"):
        GradientAugmentation(implicit="nois")


# together


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("implicit", [None, *ISOTROPIC_WEIGHTS])
def test_terms_as_asked_for(explicit: bool, implicit: str | None) -> None:
    layer = nn.Linear(3, 1).double()
    images = draw(4, 3).requires_grad_()
    loss = layer(images).mean()
    augmentation = GradientAugmentation(explicit, implicit, explicit_weight=0.5)
    terms = augmentation.terms(loss, images, list(layer.parameters()), chance(2))
    assert ("adversarial" in terms) == explicit
    assert ("isotropic" in terms) == (implicit is not None)
    assert len(terms) == explicit + (implicit is not None)
    if explicit:
        assert terms["adversarial"].item() == pytest.approx(
            0.25 * layer.weight.abs().sum().item(), rel=1e-9
        )
