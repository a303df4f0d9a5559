"""Networks, losses and codes of the generator, against section 5.2 and slow sums."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retrieval.generation.augmentation import CODE, Code, ConditioningAugmentation, divergence
from retrieval.generation.drawing import to_pictures
from retrieval.generation.layers import NORMS
from retrieval.generation.losses import (
    ADVERSARIAL,
    adversarial,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from retrieval.generation.models import (
    Average,
    GanSpec,
    build_discriminator,
    build_generator,
    draw_noise,
)


def numbers(module: nn.Module) -> int:
    """Learned numbers of a network."""
    return sum(one.numel() for one in module.parameters())


def small(stage: int = 1, **changes: object) -> GanSpec:
    """A stage narrow enough for tests."""
    return GanSpec(**{"stage": stage, "condition_dim": 6, "width": 2, "noise": 5,
                      "first_width": 2, **changes})  # type: ignore[arg-type]  # fmt: skip


def batch(spec: GanSpec, count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(3)
    condition = torch.randn(count, spec.condition_dim, generator=chance)
    return (condition, *draw_noise(spec, count, chance))


# the published widths


def test_first_stage_at_full_width_counts_as_in_the_table() -> None:
    with torch.device("meta"):
        spec = GanSpec()
        generator, discriminator = build_generator(spec), build_discriminator(spec)
        condition = torch.zeros(2, 512)
        pictures, code = generator(condition, torch.zeros(2, 100), torch.zeros(2, 128))
        maps = discriminator.read(pictures)
        logits = discriminator.judge(maps, code.mean)
    assert pictures.shape == (2, 3, 64, 64)
    assert maps.shape == (2, 768, 4, 4)
    assert logits.shape == (2,)

    ups = [(1536, 768), (768, 384), (384, 192), (192, 96)]
    expected = 512 * 256 + 256  # conditioning augmentation, with a bias
    expected += 228 * 1536 * 16 + 2 * 1536 * 16  # Linear without bias, BatchNorm
    expected += sum(9 * one * other + 2 * other for one, other in ups) + 9 * 96 * 3
    assert numbers(generator) == expected

    downs = [(96, 192), (192, 384), (384, 768)]
    expected = 16 * 3 * 96 + sum(16 * one * other + 2 * other for one, other in downs)
    expected += 9 * 896 * 768 + 2 * 768 + 16 * 768 + 1
    assert numbers(discriminator) == expected


def test_second_stage_at_full_width_counts_as_in_the_table() -> None:
    with torch.device("meta"):
        spec = GanSpec(stage=2)
        generator, discriminator = build_generator(spec), build_discriminator(spec)
        pictures, code = generator(torch.zeros(2, 512), torch.zeros(2, 100), torch.zeros(2, 256))
        maps = discriminator.read(pictures)
        logits = discriminator.judge(maps, code.mean), discriminator.judge_alone(maps)
    assert pictures.shape == (2, 3, 128, 128)
    assert [one.shape for one in logits] == [(2,), (2,)]

    expected = 512 * 256 + 256 + 9 * 3 * 192
    expected += 16 * 192 * 384 + 2 * 384 + 16 * 384 * 768 + 2 * 768 + 9 * 896 * 768 + 2 * 768
    expected += 2 * 2 * (9 * 768 * 768 + 2 * 768)  # two residual blocks of two convolutions
    ups = [(768, 384), (384, 192), (192, 96)]
    expected += sum(9 * one * other + 2 * other for one, other in ups) + 9 * 96 * 3
    learned = sum(one.numel() for one in generator.parameters() if one.requires_grad)
    assert learned == expected

    downs = [(96, 192), (192, 384), (384, 768), (768, 1536)]
    expected = 16 * 3 * 96 + sum(16 * one * other + 2 * other for one, other in downs)
    expected += 9 * 1536 * 768 + 2 * 768 + 9 * 896 * 768 + 2 * 768 + 2 * (16 * 768 + 1)
    assert numbers(discriminator) == expected


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    for norm in NORMS:
        spec = GanSpec(condition_dim=64, width=16, norm=norm)
        for network in (build_generator(spec), build_discriminator(spec)):
            for name, value in network.named_parameters():
                if value.dim() > 1 and value.numel() > 1000:
                    assert value.std().item() == pytest.approx(0.02, rel=0.1), name
    bn = build_generator(GanSpec(condition_dim=8, width=16)).first[1]
    assert bn.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert bn.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (bn.bias == 0).all()


# single layers against the table


def test_first_stage_draws_what_its_layers_say() -> None:
    torch.manual_seed(1)
    generator = build_generator(small()).eval()
    condition, noise, code_noise = batch(small())
    pictures, code = generator(condition, noise, code_noise)

    both = torch.relu(F.linear(condition, *generator.augmentation.linear.parameters()))
    mean, log_variance = both[:, :CODE], both[:, CODE:]
    torch.testing.assert_close(code.mean, mean)
    drawn = mean + torch.exp(log_variance / 2) * code_noise
    maps = generator.first(torch.cat([noise, drawn], 1)).reshape(4, 32, 4, 4)
    for block in generator.up:
        maps = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        maps = F.relu(block[2](F.conv2d(maps, block[1].weight, padding=1)))
    expected = torch.tanh(F.conv2d(maps, generator.last[0].weight, padding=1))
    torch.testing.assert_close(pictures, expected)


def test_second_stage_leaves_the_first_as_it_is() -> None:
    spec = small(2)
    generator = build_generator(spec).train()
    before = copy.deepcopy(generator.first.state_dict())
    pictures, _ = generator(*batch(spec))
    pictures.square().mean().backward()
    assert not generator.first.training
    for name, value in generator.first.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(one.grad is None for one in generator.first.parameters())
    for name, one in generator.named_parameters():
        if not name.startswith("first."):
            assert one.grad is not None and one.grad.abs().sum() > 0, name


@pytest.mark.parametrize("stage", [1, 2])
def test_a_picture_depends_on_its_own_row_alone(stage: int) -> None:
    spec = small(stage)
    generator = build_generator(spec).eval()
    condition, noise, code_noise = batch(spec)
    together, _ = generator(condition, noise, code_noise)
    for row in range(len(condition)):
        part = slice(row, row + 1)
        alone, _ = generator(condition[part], noise[part], code_noise[part])
        torch.testing.assert_close(alone, together[part])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("stage", [1, 2])
def test_every_parameter_learns(stage: int, norm: str) -> None:
    spec = small(stage, norm=norm, form="linear", first_form="linear")
    generator, discriminator = build_generator(spec), build_discriminator(spec)
    fake, code = generator(*batch(spec))
    real = torch.rand_like(fake) * 2 - 1
    verdict, fooling = adversarial("bce")
    discriminator_loss(discriminator, real, fake, code.mean, verdict).backward()
    for name, one in discriminator.named_parameters():
        assert one.grad is not None and one.grad.abs().sum() > 0, name
    assert all(one.grad is None for one in generator.parameters())
    (generator_loss(discriminator, fake, code.mean, fooling) + divergence(code)).backward()
    for name, one in generator.named_parameters():
        if one.requires_grad:
            assert one.grad is not None and one.grad.abs().sum() > 0, name


def test_spectral_normalisation_bounds_every_convolution() -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(small(norm="spectral")).train()
    for _ in range(30):  # power iterations
        discriminator.read(torch.zeros(2, 3, 64, 64))
    seen = [one for one in discriminator.down.modules() if isinstance(one, nn.Conv2d)]
    assert len(seen) == 4
    for layer in seen:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=0.02)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in discriminator.modules())


# codes


def test_released_codes_have_no_negative_mean_and_no_variance_below_one() -> None:
    torch.manual_seed(0)
    condition, noise = torch.randn(50, 6), torch.randn(50, CODE)
    relu = ConditioningAugmentation(6, "relu")
    linear = ConditioningAugmentation(6, "linear")
    linear.load_state_dict(relu.state_dict())
    code, free = relu(condition, noise), linear(condition, noise)
    assert code.mean.min() == 0 and code.log_variance.min() == 0
    assert free.mean.min() < 0 and free.log_variance.min() < 0
    torch.testing.assert_close(code.mean, free.mean.clamp(min=0))
    torch.testing.assert_close(free.drawn, free.mean + (free.log_variance / 2).exp() * noise)


def test_divergence_is_the_integral_it_stands_for() -> None:
    """Of one number: the integral of p log(p / q), summed on a fine grid."""
    mean, deviation = 0.7, 1.6
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    p = torch.distributions.Normal(mean, deviation).log_prob(x)
    q = torch.distributions.Normal(0.0, 1.0).log_prob(x)
    expected = (p.exp() * (p - q)).sum().item() * 1e-4
    code = Code(torch.zeros(1), torch.tensor([mean]), torch.tensor([2 * math.log(deviation)]))
    assert divergence(code).item() == pytest.approx(expected, abs=1e-4)
    half = Code(torch.zeros(2), torch.tensor([mean, 0]),
                torch.tensor([2 * math.log(deviation), 0]))  # fmt: skip
    assert divergence(half).item() == pytest.approx(expected / 2, abs=1e-4)  # a mean, not a sum


# losses


def probability_loss(logits: torch.Tensor, label: int) -> float:
    """Binary cross-entropy by its definition, on probabilities, one at a time."""
    values = torch.sigmoid(logits.double()).tolist()
    return -sum(math.log(p if label else 1 - p) for p in values) / len(values)


@pytest.mark.parametrize("stage", [1, 2])
def test_discriminator_loss_is_the_published_sum(stage: int) -> None:
    torch.manual_seed(2)
    spec = small(stage)
    discriminator = build_discriminator(spec).eval()
    real, fake = torch.rand(2, 4, 3, spec.size, spec.size) * 2 - 1
    mean = torch.rand(4, CODE) * 5
    found = discriminator_loss(discriminator, real, fake, mean, adversarial("bce")[0]).item()

    def conditional(pictures: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return discriminator.judge(discriminator.read(pictures), codes)

    is_real = probability_loss(conditional(real, mean), 1)
    is_fake = probability_loss(conditional(fake, mean), 0)
    wrong = torch.cat([conditional(real[row : row + 1], mean[row + 1 : row + 2])
                       for row in range(3)])  # fmt: skip
    is_wrong = probability_loss(wrong, 0)
    if stage == 1:
        expected = is_real + 0.5 * (is_fake + is_wrong)
    else:
        alone = [discriminator.judge_alone(discriminator.read(one)) for one in (real, fake)]
        real_alone, fake_alone = probability_loss(alone[0], 1), probability_loss(alone[1], 0)
        expected = (is_real + real_alone) / 2 + (is_fake + is_wrong + fake_alone) / 3
    assert found == pytest.approx(expected, rel=1e-4)

    fooling = generator_loss(discriminator, fake, mean, adversarial("bce")[1]).item()
    expected = probability_loss(conditional(fake, mean), 1)
    if stage == 2:
        expected += probability_loss(alone[1], 1)
    assert fooling == pytest.approx(expected, rel=1e-4)


def test_adversarial_losses_pull_the_right_way() -> None:
    sure, unsure = torch.full((3,), 3.0), torch.full((3,), -3.0)
    for verdict, fooling in ADVERSARIAL.values():
        assert verdict(sure, True) < verdict(unsure, True)
        assert verdict(sure, False) > verdict(unsure, False)
        assert fooling(sure) < fooling(unsure)
    hinge, _ = ADVERSARIAL["hinge"]
    assert hinge(torch.tensor([2.0, 0.5, -1.0]), True).item() == pytest.approx(2.5 / 3)
    assert hinge(torch.tensor([2.0, 0.5, -1.0]), False).item() == pytest.approx(4.5 / 3)


def test_no_gradient_reaches_the_codes_through_the_discriminator() -> None:
    spec = small()
    discriminator = build_discriminator(spec)
    mean = torch.rand(4, CODE, requires_grad=True)
    pictures = torch.rand(4, 3, 64, 64, requires_grad=True)
    verdict, fooling = adversarial("bce")
    discriminator_loss(discriminator, pictures.detach(), pictures, mean, verdict).backward()
    assert mean.grad is None and pictures.grad is None
    generator_loss(discriminator, pictures, mean, fooling).backward()
    assert mean.grad is None and pictures.grad is not None


def test_gradient_penalty_is_half_the_squared_slope() -> None:
    """Against finite differences of a discriminator's logits, one number at a time."""

    class Quadratic(nn.Module):
        def read(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures

        def judge(self, maps: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
            return (maps**2).flatten(1).sum(1) * mean[:, 0]

        def judge_alone(self, maps: torch.Tensor) -> None:
            return None

    real, mean = torch.rand(3, 1, 2, 2), torch.tensor([[1.0], [2.0], [-1.0]])
    expected = np.mean([
        sum(0.5 * (2 * value * factor) ** 2 for value in picture.flatten().tolist())
        for picture, factor in zip(real, mean.flatten().tolist(), strict=True)
    ])  # fmt: skip
    assert gradient_penalty(Quadratic(), real, mean).item() == pytest.approx(expected, rel=1e-5)


# the rest


def test_average_follows_by_its_formula() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(network, 0.9)
    expected = network[0].weight.detach().clone()
    for step in range(1, 200):
        with torch.no_grad():
            network[0].weight.add_(torch.randn(2, 2))
        network[1].running_mean += 1
        average.follow(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network[0].weight.detach()
    torch.testing.assert_close(average.model[0].weight, expected)
    torch.testing.assert_close(average.model[1].running_mean, network[1].running_mean)
    assert not average.model.training


def test_pictures_cover_the_range_of_tanh() -> None:
    drawn = torch.tensor([-1.0, 0.0, 1.0]).expand(1, 3, 2, 3)  # values along the width
    pictures = to_pictures(drawn)
    assert pictures.dtype == np.uint8 and pictures.shape == (1, 2, 3, 3)
    assert pictures[0, 0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": 3}, "expected stage 1 or 2, got 3"),
        ({"width": 0}, "expected width of at least 1, got 0"),
        ({"norm": "spectrla"}, "Did you mean 'spectral'"),
        ({"form": "lineer"}, "Did you mean 'linear'"),
    ],
)
def test_impossible_networks_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GanSpec(**change)  # type: ignore[arg-type]
