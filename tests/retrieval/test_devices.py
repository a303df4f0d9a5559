"""Trainings on a device that is not the CPU's; search and ranks there."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from retrieval.devices import CPU, device_of, place_of, put, settle, to_host
from retrieval.index import ExactIndex
from retrieval.indexes import on_device
from retrieval.indexes.on_device import DeviceIndex
from retrieval.inference import to_tensor
from tests.command_line import refused
from tests.distributed_cases import CASES, no_dropout
from tests.pretend_device import PRETEND, PretendedDevice, There

NO_GRADIENT = {"weights/looks.0.key.bias", "weights/looks.1.key.bias"}
"""What moves by rounding alone: a bias on keys of attention."""


@pytest.mark.parametrize("name", CASES)
def test_every_training_comes_to_the_same_on_another_device(
    name: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor is left behind on the CPU, which the pretended device would refuse."""
    case, autocast = CASES[name], torch.autocast
    monkeypatch.setattr(  # it asks for the device's own 16 bits even where it is switched off
        torch, "autocast", lambda kind, *rest, **how: (
            nullcontext() if kind == PRETEND.type else autocast(kind, *rest, **how)
        ),
    )  # fmt: skip
    for folder in ("cpu", "there"):
        (tmp_path / folder).mkdir()
    with no_dropout():
        plain = case(tiny_root, tmp_path / "cpu")
        with PretendedDevice() as pretended:
            there = case(tiny_root, tmp_path / "there", device=PRETEND)
    assert pretended.waits  # it was used
    assert plain.keys() == there.keys()
    for key in plain.keys() - NO_GRADIENT:
        value = plain[key]
        np.testing.assert_allclose(there[key], value, rtol=2e-4, atol=2e-5, err_msg=key)


def test_the_pretended_device_refuses_what_a_gpu_would() -> None:
    with PretendedDevice() as pretended:
        layer = settle(nn.Conv2d(3, 4, 3), PRETEND)
        pictures = to_tensor(np.ones((2, 8, 8, 3), np.uint8), PRETEND)
        for tensor in (layer.weight, pictures):
            assert isinstance(tensor, torch.Tensor) and tensor.device == PRETEND
            assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not pretended.waits
        with pytest.raises(AssertionError, match="are on the CPU"):
            layer(torch.ones(2, 3, 8, 8))
        assert to_host(layer(pictures)).shape == (2, 4, 6, 6)
        assert isinstance(pictures, There) and pretended.waits == {"to the host": 1}
        assert place_of(layer) == PRETEND and place_of(settle(layer, CPU)) == CPU


@pytest.mark.parametrize("ties", ["half", "optimistic"])
@pytest.mark.parametrize("width", [4, 64, 10_000])
def test_device_index_finds_what_the_exact_one_does(
    ties: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(-3, 4, (101, 5)).astype(np.float32)  # whole numbers: no rounding, ties
    query = rng.integers(-3, 4, (4, 5)).astype(np.float32)
    target = rng.integers(0, 101, 4)
    monkeypatch.setattr(on_device, "SCORES", 4 * width)
    exact, index = ExactIndex(rows, ties), DeviceIndex(torch.from_numpy(rows), ties)  # type: ignore[arg-type]
    assert (index.size, index.dim) == (101, 5)
    np.testing.assert_array_equal(index.rank(query, target), exact.rank(query, target))
    found, wanted = index.look_up(query, target, 7), exact.look_up(query, target, 7)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.rank, wanted.rank)
    np.testing.assert_allclose(np.einsum("bd,bkd->bk", query, rows[found.candidates]), found.scores)
    assert index.search(query, 500).shape == (4, 101)
    np.testing.assert_array_equal(index.query_of(target), rows[target])
    with pytest.raises(ValueError, match=r"expected queries \(B, 5\)"):
        index.search(query[:, :4], 1)
    with pytest.raises(ValueError, match=r"expected embeddings \(N, D\)"):
        DeviceIndex(torch.zeros(3))


def test_a_device_that_is_not_there_is_told(tiny_root: Path, tmp_path: Path) -> None:
    assert device_of("cpu") == CPU and put(np.ones(2), CPU).device == CPU
    with pytest.raises(ValueError, match="expected a device such as cpu"):
        device_of("gpu please")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so that --device cuda is no mistake")
    data = ["--data-path", tiny_root, "--user", "attribute", "--device", "cuda"]
    for command in (
        ["train_sl", "--model-folder", tmp_path / "sl", *data],
        ["benchmark", "--agents", "random", "--out", tmp_path / "benchmark", *data],
        ["train_composer", "--dataset", "css3d", "--dataset_path", tiny_root,
         "--log_dir", tmp_path / "composer", "--device", "cuda"],
        ["train_captioner", "--data-path", tiny_root, "--out", tmp_path / "user" / "it.pt",
         "--device", "cuda"],
    ):  # fmt: skip
        told = refused(*map(str, command))
        assert "PyTorch finds 0 GPUs here" in told and "--device cpu" in told
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
