"""Training in runs of one reference, read once, and training with 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from retrieval.composers import COMPOSERS
from retrieval.datasets.base import ComposedSplit
from retrieval.gallery import Triplet
from retrieval.losses import batch_classification
from retrieval.models import ModelSpec
from retrieval.regularizers import GradientAugmentation
from retrieval.training import Training, fit
from retrieval.two_encoders import build

WORDS = ("red", "green", "blue")
HOW = Training(
    loss="batch_based_classification", optimizer="adamw", schedule="constant",
    learning_rate=1e-3, batch_size=12, epochs=1, together=3,
)  # fmt: skip


def small_model(name: str = "tirg", separate: bool = False) -> Any:
    torch.manual_seed(0)
    spec = ModelSpec(
        name, 16, "small-cnn", text_encoder="transformer", words=WORDS, width=16,
        layers=1, dropout=0.0,
    )  # fmt: skip
    return build(spec, separate)


def families(count: int) -> ComposedSplit:
    """Every family has a picture, and one more for each of three colours it is asked in."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(256, size=(4 * count, 64, 64, 3), dtype=np.uint8)
    queries = tuple(
        Triplet(4 * family, colour, 4 * family + 1 + number)
        for family in range(count)
        for number, colour in enumerate(WORDS)
    )
    names = tuple(str(row) for row in range(4 * count))
    return ComposedSplit("toy", "train", names, names, pictures, queries)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("name", COMPOSERS)
def test_shared_references_give_the_same_loss(name: str, separate: bool) -> None:
    if separate and name == "comquery_former":
        pytest.skip("has one image encoder on levels")
    model = small_model(name, separate).eval()  # without batch statistics
    images, targets = torch.rand(2, 3, 64, 64), torch.rand(5, 3, 64, 64)
    ids = model.token_ids(["red", "green", "blue", "red", "green"])
    which = torch.tensor([0, 1, 1, 0, 1])
    shared = model.losses(images, ids, targets, batch_classification, which)
    each = model.losses(images[which], ids, targets, batch_classification)
    assert shared.keys() == each.keys()
    for term in each:
        torch.testing.assert_close(shared[term], each[term])


@pytest.mark.parametrize(("explicit", "expected"), [(False, 4), (True, 12)])
def test_a_reference_is_read_once(explicit: bool, expected: int, tmp_path: Path) -> None:
    """But for the penalty, which asks how each query's loss depends on its own picture."""
    model, read = small_model(), []
    before = model._read

    def counted(images: Tensor) -> Tensor:
        read.append(len(images))
        return before(images)

    model._read = counted
    how = replace(HOW, augmentation=GradientAugmentation(explicit))
    fit(model, families(8), how, tmp_path)
    assert read == [expected, expected]


def test_runs_keep_queries_and_references_apart(tmp_path: Path) -> None:
    """What the model is shown for each query is the picture of that query's reference."""
    split, model, seen = families(8), small_model(), []
    before: Callable[..., dict[str, Tensor]] = model.losses

    def looked_at(
        images: Tensor, ids: Tensor, targets: Tensor, metric: Any, which: Tensor
    ) -> dict[str, Tensor]:
        seen.append((images[which], ids, targets))
        return before(images, ids, targets, metric, which)

    model.losses = looked_at
    fit(model, split, HOW, tmp_path)
    for batch, (images, ids, targets) in enumerate(seen):
        queries = HOW.queries(split, 0)[12 * batch : 12 * batch + 12]
        for row, query in enumerate(queries):
            expected = torch.from_numpy(split.pictures[query.reference]).permute(2, 0, 1) / 255
            torch.testing.assert_close(images[row], expected)
            expected = torch.from_numpy(split.pictures[query.target]).permute(2, 0, 1) / 255
            torch.testing.assert_close(targets[row], expected)
            assert ids[row, 0] == model.token_ids([query.caption])[0, 0]


def test_sixteen_bits(tmp_path: Path) -> None:
    """The networks change their type, the loss and the weights do not, and it learns the same."""
    split, last, types = families(4), {}, []
    for is_short in (False, True):
        model = small_model()
        how = replace(HOW, bfloat16=is_short, epochs=25)
        before = model.composer.compose

        def watched(*args: Tensor, before: Any = before) -> Tensor:
            composed: Tensor = before(*args)
            types.append(composed.dtype)
            return composed

        model.composer.compose = watched
        fit(model, split, how, tmp_path / str(is_short))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        model.eval()
        rows = [query.reference for query in split.queries], [q.target for q in split.queries]
        shown, wanted = (
            torch.from_numpy(split.pictures[list(one)]).permute(0, 3, 1, 2) / 255 for one in rows
        )
        ids = model.token_ids([query.caption for query in split.queries])
        with torch.inference_mode():
            terms = model.losses(shown, ids, wanted, batch_classification)
        last[is_short] = terms["metric"].item()
    assert set(types) == {torch.float32, torch.bfloat16}
    assert last[True] != last[False]
    assert max(last.values()) < 0.5 * np.log(len(split.queries))


def test_the_loss_sees_32_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types = []

    def metric(query: Tensor, target: Tensor) -> Tensor:
        types.extend([query.dtype, target.dtype, (query @ target.T).dtype])
        return batch_classification(query, target)

    monkeypatch.setattr("retrieval.training.make_metric", lambda *_: metric)
    fit(small_model(), families(8), replace(HOW, bfloat16=True), tmp_path)
    assert set(types) == {torch.float32}
