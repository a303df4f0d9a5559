"""Training by two real processes, against one that takes the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from retrieval import distributed
from retrieval.distributed import OwnDraws
from retrieval.global_batch_norm import GlobalBatchNorm, with_global_batch_norm
from tests.distributed_cases import CASES, no_dropout

WORKER = Path(__file__).parents[1] / "distributed_worker.py"
ROOT = Path(__file__).parents[2]
UNDECIDED = ("looks.0.key.bias", "looks.1.key.bias")
"""Weights whose true gradient is zero: Adam makes steps of what rounding leaves."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Path:
    """The folder where each of two processes left what every case came to."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, str(number), "2", tiny_root, folder],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        for process in started:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_do_what_one_does(
    name: str, together: Path, tiny_root: Path, tmp_path: Path
) -> None:
    """Losses, ranks and weights after some steps, within rounding."""
    with no_dropout():
        alone = CASES[name](tiny_root, tmp_path)
    for number in range(2):
        found = dict(np.load(together / f"{name}-{number}.npz"))
        assert found.keys() == alone.keys()
        for key in found:
            if not key.endswith(UNDECIDED):
                np.testing.assert_allclose(
                    found[key], alone[key], rtol=1e-4, atol=3e-5, err_msg=f"{name}, {key}"
                )


@pytest.mark.parametrize("name", CASES)
def test_the_processes_keep_the_same_weights_to_the_bit(name: str, together: Path) -> None:
    one, other = (dict(np.load(together / f"{name}-{number}.npz")) for number in range(2))
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_one_process_writes(together: Path) -> None:
    for name in ("tirg", "compose_ae"):
        files = {path.name for path in (together / f"{name}-0").iterdir()}
        assert {"best.pt", "last.pt", "metrics.json"} < files
        assert not (together / f"{name}-1").exists()


# the parts, with a group that is only said to be there


def of_processes(count: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "processes", lambda: count)
    monkeypatch.setattr(distributed, "process_number", lambda: number)


def test_own_draws_are_the_rows_of_the_draws_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.random.default_rng(1)
    expected = [whole.random((6, 4)), whole.integers(50, size=6), whole.integers(9, size=(6, 2)),
                whole.uniform(-1, 2, (6, 3))]  # fmt: skip
    for number in range(3):
        of_processes(3, number, monkeypatch)
        own = distributed.own_draws(np.random.default_rng(1))
        drawn = [own.random((2, 4)), own.integers(50, size=2), own.integers(9, size=(2, 2)),
                 own.uniform(-1, 2, (2, 3))]  # fmt: skip
        for rows, every in zip(drawn, expected, strict=True):
            np.testing.assert_array_equal(rows, every[2 * number : 2 * number + 2])
    assert isinstance(own, OwnDraws)


def test_rows_are_shared_evenly_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for number in range(4):
        of_processes(4, number, monkeypatch)
        rows += range(12)[distributed.own_rows(12)]
        assert (distributed.even(4), distributed.even(7), distributed.even(64)) == (4, 4, 64)
    assert rows == list(range(12))
    with pytest.raises(ValueError, match="4 processes share evenly, got 10"):
        distributed.own_rows(10)
    with pytest.raises(ValueError, match="each of 4 processes, got 3"):
        distributed.even(3)


def test_dropout_differs_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(9)
    alone = torch.rand(3)
    drawn = []
    for number in range(3):
        of_processes(3, number, monkeypatch)
        distributed.seed_dropout(9)
        drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], alone)  # the first one draws as one alone would
    assert not torch.equal(drawn[1], alone) and not torch.equal(drawn[1], drawn[2])


def test_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def joins(*_: object, **__: object) -> None:
        raise AssertionError("a process group was made")

    monkeypatch.setattr(torch.distributed, "init_process_group", joins)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with distributed.process_group(), distributed.writer_first():
        assert distributed.is_writer()
    rows, rng = torch.randn(4, 3), np.random.default_rng(0)
    assert distributed.gather(rows)[0] is rows and distributed.own_draws(rng) is rng
    assert distributed.elsewhere(rows).shape == (0, 3)
    assert range(7)[distributed.own_rows(7)] == range(7)
    assert distributed.weight(3) == 1 and distributed.from_writer(2.5) == 2.5
    norm = nn.Sequential(nn.BatchNorm1d(3))
    distributed.share(norm)
    assert type(norm[0]) is nn.BatchNorm1d


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(8, 5), (4, 5, 3, 2)])
def test_global_batch_norm_of_one_process_is_batch_norm(
    shape: tuple[int, ...], affine: bool
) -> None:
    """Outputs, gradients, second derivatives, statistics; and the same weights under the names."""
    torch.manual_seed(0)
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    plain = nn.Sequential(kind(5, affine=affine)).double()
    ours = nn.Sequential(kind(5, affine=affine)).double()
    if affine:
        nn.init.normal_(plain[0].weight)
        ours.load_state_dict(plain.state_dict())
    parameters = list(ours.parameters())
    with_global_batch_norm(ours)
    assert isinstance(ours[0], GlobalBatchNorm)
    assert all(a is b for a, b in zip(ours.parameters(), parameters, strict=True))

    rows = torch.randn(shape, dtype=torch.float64) * 3 + 1
    results = []
    for net in (plain, ours):
        given = rows.clone().requires_grad_()
        out = net(given)
        (slope,) = torch.autograd.grad(out.tanh().sum(), given, create_graph=True)
        slope.square().sum().backward()
        results.append((out, slope, given.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.eval()(rows), plain.eval()(rows), rtol=1e-5, atol=1e-5)
