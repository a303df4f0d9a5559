"""The losses against loops and the anchors of the fact sheet."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch

import retrieval.soft_triplet as of_triplets
from retrieval.losses import (
    METRICS,
    batch_classification,
    in_batch_softmax,
    make_metric,
    matching,
    soft_triplet,
    squared_distance,
    triplet_hinge,
)
from retrieval.soft_triplet import FEW, PlainTriplets, Triplets, draw_partners

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


def test_further_negatives_are_for_all_queries_but_those_they_answer() -> None:
    query, target, more = rows(0), rows(1), rows(2)[:3]
    ids, more_ids = list(range(BATCH)), [50, 2, 51]
    loss = in_batch_softmax(
        query, target, torch.tensor(3.0), torch.tensor(ids), more, torch.tensor(more_ids)
    )
    losses = []
    for b in range(BATCH):
        against = [math.exp(3.0 * float(query[b] @ target[j])) for j in range(BATCH)]
        for j in range(3):
            if more_ids[j] != ids[b]:
                against.append(math.exp(3.0 * float(query[b] @ more[j])))
        losses.append(-math.log(against[b] / sum(against)))
    assert loss.item() == pytest.approx(sum(losses) / BATCH, rel=1e-5)
    without = in_batch_softmax(query, target, torch.tensor(3.0), torch.tensor(ids))
    assert loss > without + 1e-3


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


# losses on scaled features


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_triplets(query: torch.Tensor, target: torch.Tensor) -> list[list[float]]:
    """For each of the 2B anchors the losses of all its triplets, by loops."""
    both, pairs = [*query.tolist(), *target.tolist()], len(query)
    by_anchor = []
    for a, anchor in enumerate(both):
        partner = both[(a + pairs) % (2 * pairs)]
        near = sum((x - y) ** 2 for x, y in zip(anchor, partner, strict=True))
        losses = []
        for n, negative in enumerate(both):
            if n % pairs != a % pairs:
                far = sum((x - y) ** 2 for x, y in zip(anchor, negative, strict=True))
                losses.append(math.log1p(math.exp(near - far)))
        by_anchor.append(losses)
    return by_anchor


def test_soft_triplet_over_all_triplets_is_the_loop() -> None:
    """With every negative kept nothing is left to chance."""
    query, target = 0.5 * rows(0, unit=False), 0.5 * rows(1, unit=False)
    loss = soft_triplet(query, target, chance(), per_anchor=2 * (BATCH - 1))
    by_anchor = all_triplets(query, target)
    assert [len(losses) for losses in by_anchor] == [2 * (BATCH - 1)] * (2 * BATCH)
    assert loss.item() == pytest.approx(np.mean(by_anchor), rel=1e-5)
    more = soft_triplet(query, target, chance(), per_anchor=1000)
    assert more.item() == pytest.approx(loss.item(), rel=1e-6)


def test_soft_triplet_draws_every_triplet_alike() -> None:
    """Its mean over many draws is the mean over all triplets; no draw repeats a negative."""
    query, target = 0.5 * rows(0, unit=False)[:3], 0.5 * rows(1, unit=False)[:3]
    generator = chance(3)
    drawn = [soft_triplet(query, target, generator, per_anchor=1).item() for _ in range(3000)]
    by_anchor = np.array(all_triplets(query, target))  # (6, 4)
    spread = math.sqrt(by_anchor.var(axis=1).sum()) / 6
    assert np.mean(drawn) == pytest.approx(by_anchor.mean(), abs=5 * spread / math.sqrt(3000))
    assert np.std(drawn) == pytest.approx(spread, rel=0.1)

    # Three of four without repeats: the mean of 6 anchors, each missing one of its losses.
    three = soft_triplet(query, target, chance(7)).item() * 18
    left_out = by_anchor.sum() - three
    low, high = by_anchor.min(axis=1).sum(), by_anchor.max(axis=1).sum()
    assert low - 1e-4 <= left_out <= high + 1e-4


@pytest.mark.parametrize("batch", [2, 3, 32, 50])  # 50: more sets than are listed
def test_number_of_soft_triplets(batch: int) -> None:
    """3 for each of 2B vectors (6B), fewer where there are not as many negatives."""
    partners = draw_partners(batch, 3, chance())
    positive, negative = partners[:, 0], partners[:, 1:]
    assert negative.size == (6 * batch if batch > 2 else 2 * 4)
    for anchor in range(2 * batch):
        found = negative[anchor].tolist()
        assert int(positive[anchor]) == (anchor + batch) % (2 * batch)
        assert len(set(found)) == len(found)
        assert all(number % batch != anchor % batch for number in found)


@pytest.mark.parametrize("per_anchor", [1, 2, 3, 5])
@pytest.mark.parametrize("listed", [True, False])
def test_every_set_of_negatives_is_as_likely(
    per_anchor: int, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 pairs, against the list of all sets; each anchor for itself. By both ways to draw."""
    if not listed:
        monkeypatch.setattr(of_triplets, "_every_set", lambda pairs, count: None)
    generator, pairs, times = chance(5), 4, 1500
    drawn = [draw_partners(pairs, per_anchor, generator)[:, 1:] for _ in range(times)]
    for anchor in range(2 * pairs):
        others = [other for other in range(2 * pairs) if other % pairs != anchor % pairs]
        sets = list(combinations(others, per_anchor))
        counts = Counter(tuple(sorted(table[anchor].tolist())) for table in drawn)
        assert set(counts) <= set(sets)
        expected = times / len(sets)
        away = sum((counts[one] - expected) ** 2 / expected for one in sets)  # chi-squared
        freedom = len(sets) - 1
        assert away < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("per_anchor", [6, 7, 1000])
@pytest.mark.parametrize("listed", [True, False])
def test_all_negatives_are_drawn_where_there_are_no_more(
    per_anchor: int, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not listed:
        monkeypatch.setattr(of_triplets, "_every_set", lambda pairs, count: None)
    partners = draw_partners(4, per_anchor, chance(2))
    for anchor in range(8):
        others = [other for other in range(8) if other % 4 != anchor % 4]
        assert sorted(partners[anchor, 1:].tolist()) == others


@pytest.mark.parametrize("pairs", [9, 50])
def test_partners_of_a_seed_are_always_the_same(pairs: int) -> None:
    generator = chance(8)
    first = draw_partners(pairs, 3, generator)
    state = generator.get_state()
    second = draw_partners(pairs, 3, generator)
    np.testing.assert_array_equal(draw_partners(pairs, 3, chance(8)), first)
    generator.set_state(state)
    np.testing.assert_array_equal(draw_partners(pairs, 3, generator), second)
    assert (first != second).any()


def test_soft_triplet_of_uniform_features() -> None:
    same = torch.ones(6, 3)
    assert soft_triplet(same, same, chance()).item() == pytest.approx(math.log(2), rel=1e-6)


def test_gradients_of_the_soft_triplet_loss_are_its_slopes() -> None:
    """The closed form, the slopes measured, and the gradient that is differentiated again."""
    both = torch.randn(8, 5, dtype=torch.float64, generator=chance(3), requires_grad=True)
    partners = torch.from_numpy(draw_partners(4, 3, chance(1)))

    def loss(vectors: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = Triplets.apply(vectors, partners)
        return found

    assert torch.autograd.gradcheck(loss, both)
    assert torch.autograd.gradgradcheck(loss, both)
    (closed,) = torch.autograd.grad(loss(both), both)
    (open_,) = torch.autograd.grad(loss(both), both, create_graph=True)
    torch.testing.assert_close(closed, open_)


def by_triplets(
    query: torch.Tensor, target: torch.Tensor, partners: np.ndarray
) -> tuple[float, np.ndarray]:
    """The loss and its gradient (2B, D), triplet by triplet."""
    both = torch.cat([query, target]).detach().double().numpy()
    gradient, losses = np.zeros_like(both), []
    for anchor, (positive, *negatives) in enumerate(partners.tolist()):
        for negative in negatives:
            a, p, n = both[anchor], both[positive], both[negative]
            lead = ((a - p) ** 2).sum() - ((a - n) ** 2).sum()
            losses.append(math.log1p(math.exp(lead)))
            share = 1 / (1 + math.exp(-lead))
            gradient[anchor] += share * 2 * (n - p)
            gradient[positive] += share * 2 * (p - a)
            gradient[negative] += share * 2 * (a - n)
    return float(np.mean(losses)), gradient / len(losses)


@pytest.mark.parametrize("pairs", [2, 7, FEW // 2, FEW // 2 + 1, 50])
@pytest.mark.parametrize("per_anchor", [1, 3, 20])
def test_soft_triplet_and_its_gradient_are_the_loop(
    pairs: int, per_anchor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By dense and by sparse products, in one piece and in many."""
    query, target = torch.randn(2, pairs, 6, generator=chance(3)) * 0.7
    query.requires_grad_()
    target.requires_grad_()
    value, gradient = by_triplets(query, target, draw_partners(pairs, per_anchor, chance(1)))
    for at_once in (of_triplets.AT_ONCE, 100):
        monkeypatch.setattr(of_triplets, "AT_ONCE", at_once)
        loss = soft_triplet(query, target, chance(1), per_anchor)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(value, rel=1e-5)
        for part in torch.autograd.grad(3 * loss, (query, target)):
            np.testing.assert_allclose(part, 3 * gradient[:pairs], rtol=1e-4, atol=1e-6)
            gradient = np.roll(gradient, pairs, axis=0)  # targets next


def test_plain_triplets_can_be_differentiated_again() -> None:
    """What gradient augmentation asks for, against the same in float64."""
    partners = draw_partners(5, 3, chance(1))
    query, target = torch.randn(2, 5, 4, generator=chance(4), dtype=torch.float64)

    def twice(apply, *vectors):
        vectors = [one.requires_grad_() for one in vectors]
        slopes = torch.autograd.grad(apply(*vectors), vectors, create_graph=True)
        steep = sum(slope.square().sum() for slope in slopes)
        return [torch.cat(list(many)) for many in (slopes, torch.autograd.grad(steep, vectors))]

    wide = twice(
        lambda *both: Triplets.apply(torch.cat(both), torch.from_numpy(partners)), query, target
    )
    plain = twice(
        lambda *both: PlainTriplets.apply(*both, partners),
        query.detach().float(), target.detach().float(),
    )  # fmt: skip
    for ours, theirs in zip(plain, wide, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def test_only_what_wants_a_gradient_gets_one() -> None:
    query, target = rows(0).requires_grad_(), rows(1)
    soft_triplet(query, target, chance(4)).backward()
    assert query.grad is not None and target.grad is None
    with torch.no_grad():
        assert not soft_triplet(query, target, chance(4)).requires_grad


def test_soft_triplet_of_other_precisions() -> None:
    """As good as these are: in float64 and bfloat16, of mixed ones, and under autocast."""
    query, target = rows(0).requires_grad_(), rows(1)
    plain = soft_triplet(query, target, chance(4))
    (slope,) = torch.autograd.grad(plain, query)
    for first, second, rough in (
        (query.double(), target.double(), 1e-5),
        (query.double(), target, 1e-5),
        (query.bfloat16(), target.bfloat16(), 0.05),
        (query.bfloat16(), target, 0.05),
    ):
        loss = soft_triplet(first, second, chance(4))
        assert loss.dtype == torch.promote_types(first.dtype, second.dtype)
        assert loss.item() == pytest.approx(plain.item(), rel=rough)
        torch.testing.assert_close(
            torch.autograd.grad(loss, query)[0], slope, rtol=rough, atol=rough
        )
    with torch.autocast("cpu", torch.bfloat16):
        loss = soft_triplet(query, target, chance(4))
        assert loss.item() == pytest.approx(plain.item(), rel=0.05)


def test_soft_triplet_half_gradient() -> None:
    """The released backward lacks the factor 2 of a squared distance."""
    slopes, values = [], []
    for half in (False, True):
        query = rows(0).requires_grad_()
        loss = soft_triplet(query, rows(1), chance(4), half_gradient=half)
        loss.backward()
        assert query.grad is not None
        slopes.append(query.grad)
        values.append(loss.item())
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert slopes[0].abs().max() > 0.01
    torch.testing.assert_close(0.5 * slopes[0], slopes[1])


def test_soft_triplet_of_far_features_is_finite() -> None:
    query = (1e3 * rows(0)).requires_grad_()
    loss = soft_triplet(query, -1e3 * rows(0), chance())
    loss.backward()
    assert torch.isfinite(loss)
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


def test_soft_triplet_of_one_pair() -> None:
    with pytest.raises(ValueError, match="2 pairs or more, got 1"):
        soft_triplet(rows(0)[:1], rows(1)[:1], chance())


def test_soft_triplet_without_negatives() -> None:
    with pytest.raises(ValueError, match="at least 1 negative of each anchor, got 0"):
        soft_triplet(rows(0), rows(1), chance(), per_anchor=0)


def test_batch_classification_is_the_loop() -> None:
    query, target = 2 * rows(0), 3 * rows(1)
    expected = slow_softmax(query.numpy(), target.numpy(), 1.0)
    assert batch_classification(query, target).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [2, 32])
def test_batch_classification_anchor(batch: int) -> None:
    """Orthonormal features scaled by s = 4 on both sides."""
    scaled = 4 * torch.eye(batch, dtype=torch.float64)
    expected = math.log1p((batch - 1) * math.exp(-16))
    assert batch_classification(scaled, scaled).item() == pytest.approx(expected, rel=1e-6)


def test_matching_is_the_loop() -> None:
    query, target = rows(0), rows(1)
    gaps = [
        (a - b) ** 2
        for q, t in zip(query.tolist(), target.tolist(), strict=True)
        for a, b in zip(q, t, strict=True)
    ]
    assert len(gaps) == BATCH * DIM
    assert matching(query, target).item() == pytest.approx(sum(gaps) / len(gaps), rel=1e-5)


@pytest.mark.parametrize("loss", METRICS)
def test_metrics_by_name(loss: str) -> None:
    query, target = rows(0), rows(1)
    plain = make_metric(loss, chance(1))(query, target).item()
    direct = {
        "soft_triplet": lambda: soft_triplet(query, target, chance(1)),
        "batch_based_classification": lambda: batch_classification(query, target),
    }[loss]()
    assert plain == pytest.approx(direct.item(), rel=1e-6)
    with_matching = make_metric(loss, chance(1), matching_weight=0.5)(query, target).item()
    assert with_matching == pytest.approx(plain + 0.5 * matching(query, target).item(), rel=1e-5)


def test_metrics_that_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'soft_triplet'"):
        make_metric("soft_triplets", chance())
    with pytest.raises(ValueError, match="not of batch_based_classification"):
        make_metric("batch_based_classification", chance(), half_gradient=True)
