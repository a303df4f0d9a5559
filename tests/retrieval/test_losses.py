"""The losses against loops and the anchors of the fact sheet."""

import math

import numpy as np
import pytest
import torch

from retrieval.losses import in_batch_softmax, squared_distance, triplet_hinge

BATCH, DIM = 7, 4


def rows(seed: int, unit: bool = True) -> torch.Tensor:
    found = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=-1) if unit else found


def slow_softmax(
    query: np.ndarray, target: np.ndarray, scale: float, ids: list[int] | None = None
) -> float:
    losses = []
    for b in range(len(query)):
        weights = {}
        for j in range(len(target)):
            if ids is None or j == b or ids[j] != ids[b]:
                weights[j] = math.exp(scale * float(query[b] @ target[j]))
        losses.append(-math.log(weights[b] / sum(weights.values())))
    return sum(losses) / len(losses)


def test_in_batch_softmax_is_the_loop() -> None:
    query, target = rows(0), rows(1)
    loss = in_batch_softmax(query, target, torch.tensor(5.0))
    assert loss.item() == pytest.approx(slow_softmax(query.numpy(), target.numpy(), 5.0), rel=1e-5)
    other_way = in_batch_softmax(target, query, torch.tensor(5.0))
    assert loss.item() != pytest.approx(other_way.item(), rel=1e-3)  # one direction only


@pytest.mark.parametrize("batch", [2, 8, 32])
def test_in_batch_softmax_anchor(batch: int) -> None:
    """Orthonormal q = t: 16 on the diagonal, 0 elsewhere; loss = ln(1 + (B - 1) e^-16)."""
    unit = torch.eye(batch, dtype=torch.float64)
    loss = in_batch_softmax(unit, unit, torch.tensor(16.0, dtype=torch.float64))
    assert loss.item() == pytest.approx(math.log1p((batch - 1) * math.exp(-16)), rel=1e-6)


def test_equal_targets_are_no_negatives() -> None:
    query, target = rows(0), rows(1)
    ids = [4, 9, 4, 2, 4, 9, 0]
    for b, number in enumerate(ids):  # equal targets have equal embeddings
        target[b] = target[ids.index(number)]
    masked = in_batch_softmax(query, target, torch.tensor(3.0), torch.tensor(ids)).item()
    expected = slow_softmax(query.numpy(), target.numpy(), 3.0, ids)
    assert masked == pytest.approx(expected, rel=1e-5)
    assert masked < in_batch_softmax(query, target, torch.tensor(3.0)).item() - 1e-3


def test_all_targets_equal_is_no_loss_and_finite() -> None:
    query = rows(0).requires_grad_()
    target = rows(1)[:1].expand(BATCH, DIM)
    loss = in_batch_softmax(query, target, torch.tensor(3.0), torch.zeros(BATCH, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


def test_the_scale_is_learned() -> None:
    scale = torch.tensor(3.0, requires_grad=True)
    in_batch_softmax(rows(0), rows(1), scale).backward()
    assert scale.grad is not None
    assert scale.grad.abs() > 0


def test_triplet_hinge_is_the_loop() -> None:
    query, target, negative = rows(0, unit=False), rows(1, unit=False), rows(2, unit=False)
    gaps = []
    for q, t, n in zip(query.tolist(), target.tolist(), negative.tolist(), strict=True):
        near = sum((a - b) ** 2 for a, b in zip(q, t, strict=True))
        far = sum((a - b) ** 2 for a, b in zip(q, n, strict=True))
        gaps.append(near - far + 0.25)
    assert min(gaps) < 0 < max(gaps)  # the hinge matters
    expected = sum(max(0.0, gap) for gap in gaps) / BATCH
    assert triplet_hinge(query, target, negative, 0.25).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("away", [0.0, 0.1, 0.2, 0.5, 2.0])
def test_triplet_hinge_anchor(away: float) -> None:
    """Query on the target: max(0, 0.1 - |target - negative|^2), with the default margin."""
    target = rows(1)[:1]
    direction = torch.nn.functional.normalize(rows(2)[:1], dim=-1)
    loss = triplet_hinge(target, target, target + away * direction)
    assert loss.item() == pytest.approx(max(0.0, 0.1 - away**2), abs=1e-6)


def test_squared_distance_is_not_the_distance() -> None:
    a, b = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert squared_distance(a, b).tolist() == [25.0, 0.0]
