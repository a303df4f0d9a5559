"""Training of a stage: one step by hand, resuming, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval.encoders.image import SceneCNN
from retrieval.generation.adversaries import make_batch
from retrieval.generation.augmentation import divergence
from retrieval.generation.checkpoints import LAST, generator_of, load_gan
from retrieval.generation.data import GanData
from retrieval.generation.losses import adversarial, discriminator_loss, generator_loss
from retrieval.generation.models import (
    GanSpec,
    build_discriminator,
    build_generator,
    draw_noise,
)
from retrieval.generation.recipe import GanTraining
from retrieval.generation.training import fit_gan

SPEC = GanSpec(condition_dim=6, width=1, noise=5)
FEW = GanTraining(batch_size=3, epochs=2, seed=4, save_every=1)


@pytest.fixture
def data() -> GanData:
    """Ten queries about eight random pictures."""
    rng = np.random.default_rng(0)
    return GanData(
        split=None,  # type: ignore[arg-type]
        pictures=rng.integers(0, 256, size=(8, 64, 64, 3)).astype(np.uint8),
        references=rng.integers(8, size=10),
        targets=rng.integers(8, size=10),
        images=rng.normal(size=(8, 6)).astype(np.float32),
        queries=rng.normal(size=(10, 6)).astype(np.float32),
        scenes=rng.integers(0, 3, size=(8, 9, 3)).astype(np.int8),
    )


def fresh(spec: GanSpec = SPEC) -> Any:
    torch.manual_seed(0)
    return build_generator(spec)


def trained(folder: Path, data: GanData, how: GanTraining, **options: Any) -> dict[str, Any]:
    """The last checkpoint of a run."""
    spec = options.pop("spec", SPEC)
    fit_gan(spec, options.pop("generator", None) or fresh(spec), data, how, folder, **options)
    return load_gan(folder)


def same(one: Any, other: Any) -> bool:
    """Whether two nested contents are equal, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_one_step_is_the_published_one(tmp_path: Path, data: GanData) -> None:
    """Both networks' first step, written out with plain losses and Adams."""
    how = replace(FEW, batch_size=10, epochs=1)
    found = trained(tmp_path, data, how)["parts"]

    generator = fresh()
    torch.manual_seed(how.seed + 1)
    discriminator = build_discriminator(SPEC)
    order = np.random.default_rng([how.seed, 0]).permutation(10)
    real = torch.from_numpy(data.pictures[data.targets[order]]).permute(0, 3, 1, 2) / 127.5 - 1
    noise = draw_noise(SPEC, 10, torch.Generator().manual_seed(how.seed))
    fake, code = generator(torch.from_numpy(data.images[data.targets[order]]), *noise)
    verdict, fooling = adversarial("bce")
    judges = torch.optim.Adam(discriminator.parameters(), 2e-4, (0.5, 0.999))
    discriminator_loss(discriminator, real, fake, code.mean, verdict).backward()
    judges.step()
    draws = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    loss = generator_loss(discriminator, fake, code.mean, fooling) + 2 * divergence(code)
    loss.backward()
    draws.step()
    # In its first step Adam moves by the sign of the gradient, so tiny ones may round apart.
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        for key, value in network.named_parameters():
            near = torch.isclose(found[name][key], value, atol=1e-5)
            assert near.float().mean() > 0.99, key


@pytest.mark.parametrize(
    "remedies",
    [
        {},
        {"condition": "mix", "average": 0.9, "attribute_weight": 1.0, "pixel_weight": 1.0},
        {"loss": "hinge", "r1_weight": 0.1, "condition": "query"},
    ],
)
def test_a_stopped_run_goes_on_to_the_same_numbers(
    tmp_path: Path, data: GanData, remedies: dict[str, Any]
) -> None:
    how = replace(FEW, **remedies)
    spec = replace(SPEC, norm="spectral") if "r1_weight" in remedies else SPEC
    reader = SceneCNN().eval().requires_grad_(False)
    whole = trained(tmp_path / "whole", data, how, reader=reader, spec=spec)

    def stop(generator: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    # stopped at the end of the first epoch, after a save in the middle of it
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", data, how, reader=reader, spec=spec, validate=stop,
                save_minutes=0.0)  # fmt: skip
    saved = load_gan(tmp_path / "cut")
    assert saved["progress"]["step"] == 2  # of 3 in an epoch
    torch.manual_seed(99)  # what else happens in the process must not matter
    cut = trained(tmp_path / "cut", data, how, reader=reader, spec=spec, resume=saved,
                  generator=build_generator(spec))  # fmt: skip
    assert whole["progress"]["step"] == cut["progress"]["step"] == 6
    assert same(whole["parts"], cut["parts"])
    assert same(whole["chance"], cut["chance"])
    assert ("average" in whole["parts"]) == ("average" in remedies)


def test_conditions_of_a_batch_are_those_asked_for(data: GanData) -> None:
    rows = np.arange(10)
    chance = torch.Generator().manual_seed(0)
    own, composed = data.images[data.targets], data.queries
    assert composed is not None

    def told(**how: Any) -> np.ndarray:
        return make_batch(data, rows, replace(FEW, **how), chance).condition.numpy()

    assert np.array_equal(told(), own)
    assert np.array_equal(told(condition="query"), composed)
    drawn = np.stack([told(condition="mix", mix=0.3) for _ in range(400)])  # (400, 10, 6)
    is_composed = (drawn == composed).all(-1)
    assert (is_composed ^ (drawn == own).all(-1)).all()
    assert is_composed.mean() == pytest.approx(0.3, abs=0.03)
    batch = make_batch(data, rows, FEW, chance)
    assert batch.real.min() == -1 and batch.real.max() == 1
    assert batch.attributes.tolist() == data.scenes[data.targets].reshape(10, 27).tolist()


def test_rates_are_halved_after_so_many_epochs(tmp_path: Path, data: GanData) -> None:
    how = replace(FEW, epochs=5, decay_every=2, discriminator_rate=1e-3)
    parts = trained(tmp_path, data, how)["parts"]
    rates = [parts[f"{name}_optimizer"]["param_groups"][0]["lr"] for name in
             ("generator", "discriminator")]  # fmt: skip
    assert rates == [2e-4 / 4, 1e-3 / 4]  # epochs 0 1 | 2 3 | 4


def test_kept_checkpoints_and_what_was_watched(tmp_path: Path, data: GanData) -> None:
    how = replace(FEW, epochs=5, save_every=2, average=0.5)
    averages: list[Any] = []

    def watch(generator: Any) -> dict[str, float]:
        assert not generator.training
        averages.append(generator.state_dict()["last.0.weight"].clone())
        return {"score": float(len(averages))}

    last = trained(tmp_path, data, how, validate=watch)
    assert sorted(path.name for path in tmp_path.glob("model*")) == [
        "model_epoch_2.pth", "model_epoch_4.pth", "model_epoch_5.pth"
    ]  # fmt: skip
    history = json.loads((tmp_path / "metrics.json").read_text())
    assert [(row["epoch"], row["score"]) for row in history] == [(2, 1), (4, 2), (5, 3)]
    assert list(tmp_path.glob("events*"))
    kept = [load_gan(tmp_path / f"model_epoch_{epoch}.pth") for epoch in (2, 4, 5)]
    for content, seen in zip(kept, averages, strict=True):
        _, generator = generator_of(content)  # draws with the average
        assert torch.equal(generator.state_dict()["last.0.weight"], seen)
        assert not torch.equal(content["parts"]["generator"]["last.0.weight"], seen)
    assert same(kept[-1]["parts"], last["parts"])


def test_attributes_are_learned_through_a_frozen_reader(tmp_path: Path, data: GanData) -> None:
    torch.manual_seed(0)
    reader = SceneCNN().eval().requires_grad_(False)
    before = {name: value.clone() for name, value in reader.state_dict().items()}
    how = replace(FEW, attribute_weight=50.0, epochs=1)
    with_reader = trained(tmp_path / "one", data, how, reader=reader)["parts"]
    without = trained(tmp_path / "two", data, replace(how, attribute_weight=0.0))["parts"]
    assert not same(with_reader["generator"], without["generator"])
    assert same(dict(reader.state_dict()), before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": "hinges"}, "Did you mean 'hinge'"),
        ({"condition": "targets"}, "Did you mean 'target'"),
        ({"batch_size": 1}, "batch_size of at least 2, got 1"),
        ({"mix": 1.5}, "mix of at most 1, got 1.5"),
        ({"kl_weight": -1}, "kl_weight of at least 0"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GanTraining(**change)


def test_data_that_do_not_suit_are_refused(tmp_path: Path, data: GanData) -> None:
    with pytest.raises(ValueError, match="10 queries, fewer than a batch of 11"):
        trained(tmp_path, data, replace(FEW, batch_size=11))
    with pytest.raises(ValueError, match="needs composed queries"):
        trained(tmp_path, replace(data, queries=None), replace(FEW, condition="mix"))
    with pytest.raises(ValueError, match="needs a reader"):
        trained(tmp_path, data, replace(FEW, attribute_weight=1.0))
    assert not (tmp_path / LAST).exists()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, data: GanData) -> None:
    data.images[data.targets[0]] = np.nan
    with pytest.raises(RuntimeError, match="became nan"):
        trained(tmp_path, data, replace(FEW, batch_size=10))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / LAST
    if content is None:
        torch.save({"kind": "composer", "spec": {}}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a checkpoint that train_gan saved"):
        load_gan(path)
    with pytest.raises(FileNotFoundError, match="train one with `train_gan`"):
        load_gan(tmp_path / "none")
