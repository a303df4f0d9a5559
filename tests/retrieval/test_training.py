"""Training a single-turn model: it learns, stops where told, and goes on to the same bits."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

import retrieval.training
from retrieval.composers import COMPOSERS
from retrieval.datasets.base import ComposedSplit
from retrieval.gallery import Triplet
from retrieval.holdout import fewer, hold_out
from retrieval.inference import encode_gallery, encode_queries, to_tensor
from retrieval.losses import METRICS, make_metric
from retrieval.models import ModelSpec, build_model
from retrieval.regularizers import ISOTROPIC_WEIGHTS, GradientAugmentation
from retrieval.schedules import SCHEDULES, make_schedule
from retrieval.training import (
    BEST,
    LAST,
    Training,
    batch_terms,
    fit,
    load_training,
    make_optimizer,
    released_order,
)

COLOURS = ("red", "green", "blue", "black")


@dataclass(frozen=True)
class ToySpec:
    image_encoder: str = "pixels"
    words: tuple[str, ...] = COLOURS


class Toy(nn.Module):
    """A model that keeps the contract: a Linear on pixels, a small network on both, dropout."""

    def __init__(self, inputs: int = 12, image_encoder: str = "pixels") -> None:
        super().__init__()
        self.spec = ToySpec(image_encoder)
        self.image = nn.Linear(inputs, 16)
        self.text = nn.Sequential(nn.Embedding(5, 8), nn.Dropout(0.2))
        self.composer = nn.Sequential(nn.Linear(inputs + 8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.scale = nn.Parameter(torch.tensor(4.0))

    def token_ids(self, captions: Sequence[str]) -> Tensor:
        return torch.tensor([[COLOURS.index(caption) + 1] for caption in captions])

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.image(images.flatten(1)), dim=1)

    def compose(self, images: Tensor, ids: Tensor) -> Tensor:
        both = torch.cat([images.flatten(1), self.text(ids[:, 0])], dim=1)
        return F.normalize(self.composer(both), dim=1)

    def losses(
        self, images: Tensor, ids: Tensor, targets: Tensor,
        metric: Callable[[Tensor, Tensor], Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        query, target = self.compose(images, ids), self.embed(targets)
        return {"metric": metric(self.scale * query, self.scale * target)}

    def parameter_groups(
        self, learning_rate: float, backbone_factor: float = 0.1
    ) -> list[dict[str, Any]]:
        encoder = list(self.image.parameters())
        others = [*self.text.parameters(), *self.composer.parameters(), self.scale]
        return [{"params": encoder, "lr": backbone_factor * learning_rate}, {"params": others}]


def toy_split(seed: int = 0, families: int = 8) -> ComposedSplit:
    """Families of one picture in each of four colours; a query asks for another colour."""
    number = np.arange(families) + 100 * seed
    bits = number[:, None] >> np.arange(9) & 1  # (families, 9): what makes a family
    pictures = np.zeros((families, len(COLOURS), 4, 3), np.uint8)
    pictures[:, :, :3] = 255 * bits.reshape(families, 1, 3, 3)
    pictures[:, :, 3] = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]])
    queries = [
        Triplet(4 * family + a, colour, 4 * family + b)
        for family in range(families) for a in range(4)
        for b, colour in enumerate(COLOURS) if a != b
    ]  # fmt: skip
    names = tuple(f"{number}" for number in range(4 * families))
    flat = pictures.reshape(-1, 2, 2, 3)
    return ComposedSplit("toy", "train", names, names, flat, tuple(queries))


def sampled(split: ComposedSplit) -> ComposedSplit:
    def sample(rng: np.random.Generator, count: int) -> list[Triplet]:
        return [split.queries[row] for row in rng.integers(len(split.queries), size=count)]

    return replace(split, sample=sample)


FAST = Training(
    loss="batch_based_classification", optimizer="adamw", schedule="one_cycle",
    learning_rate=0.02, batch_size=16, epochs=20,
)  # fmt: skip


def toy() -> Any:
    torch.manual_seed(3)
    return Toy()


def recall(model: Any, split: ComposedSplit) -> float:
    """Recall@1 without the reference, by loops."""
    queries, gallery = encode_queries(model, split), encode_gallery(model, split)
    hits = 0
    for query, vector in zip(split.queries, queries, strict=True):
        scores = {row: float(vector @ gallery[row]) for row in range(len(gallery))}
        del scores[query.reference]
        hits += max(scores, key=lambda row: scores[row]) == query.target
    return hits / len(split.queries)


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Two checkpoints agree to the bit, but for how long they took."""
    assert a["weights"].keys() == b["weights"].keys()
    for name in a["weights"]:
        assert torch.equal(a["weights"][name], b["weights"][name]), name
    states = a["optimizer"]["state"], b["optimizer"]["state"]
    assert states[0].keys() == states[1].keys()
    for one, other in zip(states[0].values(), states[1].values(), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one)
    assert torch.equal(a["chance"], b["chance"])
    assert torch.equal(a["random"], b["random"])
    assert a["progress"]["step"] == b["progress"]["step"]


# learning


@pytest.mark.parametrize("loss", METRICS)
def test_training_learns(loss: str, tmp_path: Path) -> None:
    split, model = toy_split(), toy()
    before = recall(model, split)
    progress = fit(model, split, replace(FAST, loss=loss, epochs=40), tmp_path)
    assert progress.step == 40 * (96 // 16)
    assert recall(model, split) > max(0.8, before + 0.3)


def test_the_published_recipe_learns(tmp_path: Path) -> None:
    split, model = toy_split(), toy()
    before = recall(model, split)
    how = Training(learning_rate=0.1, iterations=400, batch_size=16, half_gradient=True)
    fit(model, split, how, tmp_path)
    assert recall(model, split) > before + 0.2


@pytest.mark.parametrize("loss", METRICS)
@pytest.mark.parametrize("implicit", [None, *ISOTROPIC_WEIGHTS])
def test_regularisers_with_every_loss(loss: str, implicit: str | None, tmp_path: Path) -> None:
    """They are logged, change what is learned, and change nothing where they weigh nothing."""
    split = toy_split()
    augmentation = GradientAugmentation(True, implicit, explicit_weight=0.1)
    how = replace(FAST, loss=loss, epochs=1, matching_weight=0.001)
    weights = {}
    for name, given in (
        ("plain", GradientAugmentation()),
        ("augmented", augmentation),
        ("weightless", replace(augmentation, implicit=None, explicit_weight=0.0)),
    ):
        model = toy()
        fit(model, split, replace(how, augmentation=given), tmp_path / name, log_every=2)
        weights[name] = model.composer[0].weight
    assert not torch.equal(weights["plain"], weights["augmented"])
    assert torch.equal(weights["plain"], weights["weightless"])
    told = EventAccumulator(str(tmp_path / "augmented")).Reload().Tags()["scalars"]
    expected = {"train/metric", "train/adversarial", "train/loss", "train/learning_rate"}
    expected |= {"train/isotropic"} if implicit else set()
    assert set(told) == expected


@pytest.mark.parametrize("loss", METRICS)
@pytest.mark.parametrize("name", COMPOSERS)
def test_regularisers_with_every_composer(name: str, loss: str) -> None:
    """Second derivatives pass through every model; every parameter is reached, by noise at least.

    The penalty is zero where, and only where, the query does not depend on the picture.
    """
    torch.manual_seed(0)
    model = build_model(
        ModelSpec(name, 16, "small-cnn", text_encoder="transformer", words=("red",), width=16,
                  layers=1)
    )  # fmt: skip
    model.train()
    images, chance = torch.rand(4, 3, 64, 64), torch.Generator().manual_seed(0)
    augmentation = GradientAugmentation(True, "noise")
    terms = batch_terms(
        model, images, model.token_ids(["red"] * 4), images.flip(0).clone(),
        make_metric(loss, chance), augmentation, chance,
    )  # fmt: skip
    assert (terms["adversarial"].item() > 0) == (name != "text_only")
    torch.stack(list(terms.values())).sum().backward()
    for parameter in model.parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().max() > 0


def test_the_penalty_is_that_of_normalised_pictures() -> None:
    """The published lambda is meant for pictures at ImageNet's spread, ours come in [0, 1]."""
    model, images = toy(), torch.rand(4, 3, 2, 2)
    model.eval()
    arguments = (model.token_ids(["red"] * 4), torch.rand(4, 3, 2, 2))
    metric, chance = make_metric("batch_based_classification", torch.Generator()), torch.Generator()
    terms = batch_terms(
        model, images, *arguments, metric, GradientAugmentation(True, explicit_weight=1.0), chance
    )
    spread = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    normalised = (images.detach() / spread).requires_grad_()
    loss = model.losses(normalised * spread, *arguments, metric)["metric"]
    (slope,) = torch.autograd.grad(loss, normalised)
    assert terms["adversarial"].item() == pytest.approx(slope.abs().sum().item() / 2, rel=1e-4)


def test_the_released_order_of_parameters() -> None:
    class Released(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.composer = nn.Linear(8, 8, bias=False)
            self.composer.weights = nn.Parameter(torch.ones(2))

    model: Any = Released()
    model.image.bias.requires_grad_(False)
    order = [
        next(name for name, one in model.named_parameters() if one is parameter)
        for parameter in released_order(model)
    ]
    assert order == [
        "composer.weights", "scale", "image.weight", "text.0.weight", "composer.weight",
    ]  # fmt: skip


def test_features_in_place_of_pictures(tmp_path: Path) -> None:
    split = toy_split()
    assert split.pictures is not None
    flat = split.pictures.transpose(0, 3, 1, 2).reshape(len(split), 12).astype(np.float32) / 255
    torch.manual_seed(3)
    model: Any = Toy(image_encoder="features")
    fit(model, replace(split, features=flat, pictures=None), FAST, tmp_path / "a")
    other = toy()
    fit(other, split, FAST, tmp_path / "b")
    torch.testing.assert_close(model.image.weight, other.image.weight)
    with pytest.raises(ValueError, match="without features; run extract_features first"):
        fit(model, split, FAST, tmp_path / "c")


def test_references_that_look_otherwise(tmp_path: Path) -> None:
    """The query side sees the references' own pictures, the gallery side never does."""
    split = toy_split()
    assert split.pictures is not None
    mixed = replace(split, query_pictures=255 - split.pictures)
    model = toy()
    fit(model, mixed, replace(FAST, epochs=1), tmp_path)
    negative = replace(split, pictures=255 - split.pictures)
    assert np.array_equal(encode_gallery(model, mixed), encode_gallery(model, split))
    np.testing.assert_array_equal(encode_queries(model, mixed), encode_queries(model, negative))
    assert not np.array_equal(encode_queries(model, mixed), encode_queries(model, split))
    assert not torch.equal(model.image.weight, _trained(split, tmp_path).image.weight)


def _trained(split: ComposedSplit, folder: Path) -> Any:
    model = toy()
    fit(model, split, replace(FAST, epochs=1), folder / "other")
    return model


def test_vectors_of_a_split_are_those_of_each_alone() -> None:
    split, model = toy_split(families=150), toy()  # more queries than a batch
    model.train()
    queries, gallery = encode_queries(model, split), encode_gallery(model, split)
    assert model.training
    model.eval()
    assert split.pictures is not None
    for row in (0, 511, 512, 1799):
        query = split.queries[row]
        image = to_tensor(split.pictures[[query.reference]])
        one = model.compose(image, model.token_ids([query.caption]))[0].detach().numpy()
        np.testing.assert_allclose(queries[row], one, atol=1e-6)
    np.testing.assert_allclose(
        gallery[599], model.embed(to_tensor(split.pictures[[599]]))[0].detach().numpy(), atol=1e-6
    )


def test_pictures_as_floats() -> None:
    pictures = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    found = to_tensor(pictures)
    assert found.shape == (2, 3, 3, 4)
    assert found[1, 2, 0, 3].item() == pytest.approx(pictures[1, 0, 3, 2] / 255)


# stopping and going on


@pytest.mark.parametrize("stop", [3, 6, 14])  # within an epoch, at its end, two epochs on
@pytest.mark.parametrize("loss", METRICS)
def test_resumed_equals_uninterrupted(stop: int, loss: str, tmp_path: Path) -> None:
    """With everything that draws: sampler, dropout, triplets, gradient noise."""
    split = sampled(toy_split(families=24))  # 96 images: 6 batches an epoch
    noisy = GradientAugmentation(True, "faithful", explicit_weight=0.01)
    how = replace(FAST, loss=loss, augmentation=noisy, epochs=3)
    fit(toy(), split, how, tmp_path / "whole", validate=watched)

    class Stopped(Exception):
        pass

    class Stopping(Toy):
        def token_ids(self, captions: Sequence[str]) -> Tensor:
            if self.training:
                self.calls = getattr(self, "calls", 0) + 1
                if self.calls > stop:
                    raise Stopped
            return super().token_ids(captions)

    torch.manual_seed(3)
    stopping: Any = Stopping()
    with pytest.raises(Stopped):
        fit(stopping, split, how, tmp_path / "part", validate=watched, save_minutes=0)
    saved = load_training(tmp_path / "part" / LAST)
    assert saved["progress"]["step"] == stop
    torch.manual_seed(99)
    fresh: Any = Toy()
    fit(fresh, split, how, tmp_path / "part", validate=watched, resume=saved)
    same(load_training(tmp_path / "part" / LAST), load_training(tmp_path / "whole" / LAST))
    histories = [json.loads((tmp_path / name / "metrics.json").read_text())
                 for name in ("part", "whole")]  # fmt: skip
    for one, other in zip(*histories, strict=True):
        assert {**one, "minutes": 0} == {**other, "minutes": 0}
    same(load_training(tmp_path / "part" / BEST), load_training(tmp_path / "whole" / BEST))


def watched(model: Any) -> dict[str, float]:
    return {"score": recall(model, toy_split(seed=1, families=2))}


def test_a_run_stopped_at_once_leaves_a_checkpoint(tmp_path: Path) -> None:
    class Broken(Toy):
        def losses(self, *_: Any) -> dict[str, Tensor]:
            raise KeyboardInterrupt

    model: Any = Broken()
    with pytest.raises(KeyboardInterrupt):
        fit(model, toy_split(), FAST, tmp_path, arguments={"seed": 0})
    saved = load_training(tmp_path / LAST)
    assert saved["progress"]["step"] == 0
    assert saved["arguments"] == {"seed": 0}
    assert saved["spec"]["words"] == COLOURS
    assert not list(tmp_path.glob(".*"))


def test_best_and_last(tmp_path: Path) -> None:
    """The best model is the one with the best score, and patience ends the run."""
    scores = iter([0.2, 0.5, 0.4, 0.5, 0.9])
    seen = []

    def validate(model: Any) -> dict[str, float]:
        seen.append(model.image.weight.detach().clone())
        return {"score": next(scores), "other": 1.0}

    how = replace(FAST, epochs=20, patience=2)
    progress = fit(toy(), toy_split(), how, tmp_path, validate=validate)
    assert [numbers["score"] for numbers in progress.history] == [0.2, 0.5, 0.4, 0.5]
    assert progress.best == 0.5
    best, last = load_training(tmp_path / BEST), load_training(tmp_path / LAST)
    assert torch.equal(best["weights"]["image.weight"], seen[1])
    assert torch.equal(last["weights"]["image.weight"], seen[3])
    assert best["progress"]["step"] == 12
    assert json.loads((tmp_path / "metrics.json").read_text()) == progress.history
    told = EventAccumulator(str(tmp_path)).Reload().Scalars("validation/score")
    assert [round(point.value, 3) for point in told] == [0.2, 0.5, 0.4, 0.5]
    assert [point.step for point in told] == [6, 12, 18, 24]


def test_validation_every_few_epochs_and_at_the_end(tmp_path: Path) -> None:
    def steps(**options: Any) -> list[float]:
        how = replace(FAST, epochs=None, iterations=32, **options)
        made = fit(toy(), toy_split(), how, tmp_path / str(options), validate=watched)
        return [numbers["step"] for numbers in made.history]

    assert steps(evaluate_every=2) == [12, 24, 32]
    assert steps(evaluate_every=0) == [32]


def test_the_time_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of training count, those of validation do not, and the run can go on after."""
    clock = [0.0]

    def tick() -> float:
        clock[0] += 0.5  # read twice a step: half a second a step between
        return clock[0]

    monkeypatch.setattr(retrieval.training.time, "monotonic", tick)

    def validate(model: Any) -> dict[str, float]:
        clock[0] += 1000
        return {"score": 0.0}

    how = replace(FAST, epochs=None, iterations=40, max_minutes=5 / 60)
    progress = fit(toy(), toy_split(), how, tmp_path, validate=validate)
    assert progress.step == 10
    assert progress.seconds == pytest.approx(5)
    assert [numbers["step"] for numbers in progress.history] == [6, 10]
    saved = load_training(tmp_path / LAST)
    again = fit(toy(), toy_split(), replace(how, max_minutes=None), tmp_path, resume=saved)
    assert again.step == 40
    fit(toy(), toy_split(), replace(how, max_minutes=None), tmp_path / "whole")
    same(load_training(tmp_path / LAST), load_training(tmp_path / "whole" / LAST))


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    model = toy()
    nn.init.constant_(model.scale, torch.inf)
    with pytest.raises(RuntimeError, match="loss became nan in step 0; lower --learning_rate"):
        fit(model, toy_split(), FAST, tmp_path)


def test_same_seed_same_run(tmp_path: Path) -> None:
    made = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(toy(), toy_split(), replace(FAST, seed=seed, epochs=2), tmp_path / name)
        made[name] = load_training(tmp_path / name / LAST)
    same(made["a"], made["b"])
    weights = [made[name]["weights"]["image.weight"] for name in "ac"]
    assert not torch.equal(*weights)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train one with `train_composer`"):
        load_training(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"kind": "agent"}, tmp_path / "agent.pt")
    for name in ("text.pt", "agent.pt"):
        with pytest.raises(ValueError, match="not a checkpoint that train_composer saved"):
            load_training(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"loss": "soft_triplets"}, "Did you mean 'soft_triplet'"),
        ({"optimizer": "adam"}, "Did you mean 'adamw'"),
        ({"schedule": "cycle"}, "unknown schedule"),
        ({"batch_size": 1}, "batch_size of at least 2, got 1"),
        ({"iterations": 0}, "iterations of at least 1"),
        ({"decay_every": 0}, "learning_rate_decay_frequency of 1 or more, got 0"),
    ],
)
def test_recipes_that_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Training(**options)


def test_a_batch_larger_than_the_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="96 queries an epoch, fewer than a batch of 200"):
        fit(toy(), toy_split(), replace(FAST, batch_size=200), tmp_path)


# queries, rates, groups


def test_an_epoch_is_every_query_once() -> None:
    split = toy_split()
    first, second = (FAST.queries(split, epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(split.queries)
    assert first != second
    assert FAST.queries(split, 0) == first


@pytest.mark.parametrize("together", [2, 3, 5])
def test_queries_of_one_reference_together(together: int) -> None:
    """Every query once, in runs of up to so many; 3 queries ask about each reference."""
    split = toy_split()
    how = replace(FAST, together=together)
    first, second = (how.queries(split, epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(split.queries)
    assert first != second
    runs = [len(list(run)) for _, run in itertools.groupby(first, lambda query: query.reference)]
    assert max(runs) == 3 if together > 2 else runs.count(2) > 20
    if together > 2:
        assert runs == [3] * 32


def test_an_epoch_by_the_published_rule() -> None:
    split = sampled(toy_split())
    assert len(FAST.queries(split, 0)) == len(split)  # as many as there are images
    assert FAST.steps(split) == (2, 40)
    assert len(replace(FAST, sampled=False).queries(split, 0)) == len(split.queries)
    assert replace(FAST, epochs=None, iterations=7).steps(split) == (2, 7)


def test_one_cycle_is_torch() -> None:
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.5, total_steps=50, cycle_momentum=False
    )
    schedule = make_schedule("one_cycle", 1)
    for step in range(50):
        assert 0.5 * schedule(step, 50) == pytest.approx(reference.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        if step < 49:
            reference.step()


def test_step_decay_is_the_published_loop() -> None:
    rate, schedule = 1.0, make_schedule("step", 4)
    for counter in range(1, 14):  # the original counts first, and checks before the step
        if counter % 4 == 0:
            rate *= 0.1
        assert schedule(counter - 1, 13) == pytest.approx(rate)


def test_linear_schedule() -> None:
    found = [make_schedule("linear", 1)(step, 40) for step in range(40)]
    assert found[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert found[22] == pytest.approx(0.5)
    assert found[39] == pytest.approx(1 / 36)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_schedules_of_short_runs(name: str, total: int) -> None:
    factors = [make_schedule(name, 10)(step, total) for step in range(total)]
    assert all(0 <= factor <= 1 for factor in factors)


def test_every_group_keeps_its_share_of_the_rate(tmp_path: Path) -> None:
    how = Training(learning_rate=0.01, weight_decay=0.5)
    optimizer = make_optimizer(toy(), how)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["top_lr"] for group in optimizer.param_groups] == [0.001, 0.01]
    assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)
    assert all(group["weight_decay"] == 0.5 for group in optimizer.param_groups)
    # One step of the tenth rate moves a tenth as far.
    moved = {}
    for decay in (1, 10):
        model = toy()
        before = model.image.weight.detach().clone()
        how = Training(iterations=1, batch_size=16, decay_every=decay)
        fit(model, toy_split(), how, tmp_path / str(decay))
        moved[decay] = (model.image.weight - before).detach()
    assert moved[10].abs().max() > 0
    torch.testing.assert_close(moved[1], 0.1 * moved[10], rtol=1e-3, atol=1e-7)


# holding out


def test_groups_are_held_out_whole() -> None:
    split = replace(toy_split(families=20), facts=tuple({"row": row} for row in range(240)))
    left, held = hold_out(split, 0.1, seed=4)
    assert len(held.queries) == 24
    assert sorted([*left.queries, *held.queries]) == sorted(split.queries)
    images = {image for query in left.queries for image in (query.reference, query.target)}
    for query in held.queries:
        assert not images & {query.reference, query.target}
    for part in (left, held):
        assert part.names == split.names
        assert [split.queries[fact["row"]] for fact in part.facts] == list(part.queries)
    assert hold_out(split, 0.1, seed=4)[1].queries == held.queries
    assert hold_out(split, 0.1, seed=5)[1].queries != held.queries


def test_single_images_where_all_hang_together() -> None:
    """One group of 30 images in a ring, each asked for from the one before."""
    names = tuple(map(str, range(30)))
    queries = tuple(Triplet(row, "red", (row + 1) % 30) for row in range(30))
    ring = ComposedSplit("ring", "train", names, names, None, queries)
    left, held = hold_out(ring, 0.2)
    targets = {query.target for query in held.queries}
    assert len(held.queries) == len(targets) == 6
    assert set(left.queries) == {q for q in queries if not {q.reference, q.target} & targets}
    assert len(left.queries) < 24  # those that only refer to a held-out image are in neither


def test_held_out_images_are_not_sampled() -> None:
    split = sampled(toy_split())
    left, held = hold_out(split, 0.5)
    assert held.sample is None
    assert left.sample is not None
    drawn = left.sample(np.random.default_rng(0), 500)
    assert len(drawn) == 500
    assert not set(drawn) & set(held.queries)
    assert set(drawn) == set(left.queries)


def test_fewer_queries() -> None:
    split = sampled(toy_split())
    few = fewer(split, 10, seed=1)
    assert few.sample is None
    assert len(set(few.queries) & set(split.queries)) == 10
    assert fewer(split, 10, seed=1).queries == few.queries
    assert fewer(split, 10, seed=2).queries != few.queries
    with pytest.raises(ValueError, match="between 1 and the 96 queries of toy"):
        fewer(split, 97)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_shares_that_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        hold_out(toy_split(), share)


def test_nothing_to_hold_out() -> None:
    with pytest.raises(ValueError, match="leaves none to train on"):
        hold_out(toy_split(families=1), 0.99)
    empty = dataclasses.replace(toy_split(), queries=())
    with pytest.raises(ValueError, match="no list of queries"):
        hold_out(empty, 0.1)
