"""Training on several processes, as one process would train on the whole batch.

    torchrun --nproc-per-node=2 -m scripts.train_sl --batch-size 64

Every process draws for the whole batch alike and keeps its own rows (`own_rows`, `own_draws`);
the networks read these alone. A loss that compares rows sees those of all processes (`gather`),
so that each computes the loss of the whole batch; of a loss that is a mean over rows each computes
its own part. In both cases, with L_p the loss of process p of P,

.. math:: \\nabla L = \\frac{1}{P} \\sum_p \\nabla_p \\sum_q L_q

where the inner gradient is what process p finds by going backwards: through `gather` it hears what
the others' losses say of its rows. `average_gradients` makes the outer mean. A step on P processes
so equals that of one process within rounding, dropout excepted, whose chances each process draws
on its own (`seed_dropout`).

Departure: not `DistributedDataParallel`, which hangs its work on one forward pass of one module.
A dialog calls an agent's parts many times before it goes backwards once, and the adversarial
penalty of `retrieval.regularizers` differentiates twice, which that class excludes. What it would
spare is waiting for one sum of all gradients at the end of a step.

In a process that nobody joined to others every function here leaves things as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

PATIENCE = timedelta(days=1)
"""How long processes wait for each other: for the writer's evaluation, or for data being made.
(`torchrun` ends the others when one of them fails.)"""
_alone: list[bool] = []  # not empty: this process works on its own for the moment


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that `torchrun` started, each on a GPU of its own if there are enough.

    All but the first are silent: what they print goes nowhere, what they raise is raised. A
    process that was started plainly joins nothing, and one that is in a group already stays there.
    """
    with ExitStack() as stack:
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _join()
            stack.callback(dist.destroy_process_group)
        if not is_writer():
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def _join() -> None:
    backend = "gloo"
    if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"  # by where a tensor lies
    dist.init_process_group(backend, timeout=PATIENCE)


@contextmanager
def writer_first() -> Iterator[None]:
    """Do something that makes files unless they are there: the writer does, the others wait.

    Meanwhile each process counts as one alone, also for training that happens inside.
    """
    first = process_number() == 0
    if not first:
        barrier()
    _alone.append(True)
    try:
        yield
    finally:
        _alone.pop()
        if first:  # where it failed, the others find out for themselves
            barrier()


def processes() -> int:
    """How many processes train together; 1 without a process group."""
    if _alone or not dist.is_available() or not dist.is_initialized():
        return 1
    return dist.get_world_size()


def process_number() -> int:
    """Which of them this is, from 0. (Not a rank, which here is a target's.)"""
    return dist.get_rank() if processes() > 1 else 0


def is_writer() -> bool:
    """Whether this is the one process that writes files and tells how things go."""
    return process_number() == 0


def barrier() -> None:
    """Wait for all processes."""
    average(0.0)


# rows and chances


def even(count: int) -> int:
    """How many of so many rows P processes can share evenly.

    Raises:
        ValueError: not one for each.
    """
    if count < processes():
        raise ValueError(
            f"expected a row for each of {processes()} processes, got {count}; start fewer"
        )
    return count // processes() * processes()


def own_rows(total: int) -> slice:
    """This process's rows of a batch.

    Raises:
        ValueError: the processes cannot share the rows evenly.
    """
    if total % processes():
        raise ValueError(
            f"expected a batch that {processes()} processes share evenly, got {total} rows; "
            "choose a multiple"
        )
    count = total // processes()
    return slice(process_number() * count, (process_number() + 1) * count)


class OwnDraws:
    """Draws for the rows of one process out of those for the whole batch.

    All processes must draw together, each for as many rows.

    Args:
        rng: in the same state on all processes.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def random(self, size: tuple[int, ...]) -> np.ndarray:
        """Uniform numbers in [0, 1) of a shape (B, ...)."""
        return _own(self.rng.random(_whole(size)))

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> np.ndarray:
        """Uniform numbers in [low, high) of a shape (B, ...)."""
        return _own(self.rng.uniform(low, high, _whole(size)))

    def integers(self, high: int, size: int | tuple[int, ...]) -> np.ndarray:
        """Whole numbers from 0 to high - 1, of a shape (B, ...) or (B,)."""
        return _own(
            self.rng.integers(high, size=_whole((size,) if isinstance(size, int) else size))
        )


def own_draws(rng: np.random.Generator) -> np.random.Generator:
    """A generator from which each process draws for its own rows; see `OwnDraws`.

    Of a NumPy generator it has `random`, `uniform` and `integers`.
    """
    return rng if processes() == 1 else cast(np.random.Generator, OwnDraws(rng))


def seed_dropout(seed: int) -> None:
    """Seed torch's own generator, which only dropout draws from, apart for each process."""
    torch.manual_seed(seed + 7_368_787 * process_number())


def _whole(size: tuple[int, ...]) -> tuple[int, ...]:
    return (size[0] * processes(), *size[1:])


def _own(rows: np.ndarray) -> np.ndarray:
    return rows[own_rows(len(rows))]


# across processes, with gradient


class _Total(torch.autograd.Function):
    """The sum of all processes' tensors, through which all their losses speak to each."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        total = part.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


def total(part: Tensor) -> Tensor:
    """The sum of all processes' tensors of one shape, any number of times differentiable."""
    return part if processes() == 1 else cast(Tensor, _Total.apply(part))


def gather(*tables: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, for tables (B, D) of this one's: (P B, D), in their order."""
    if processes() == 1:
        return tables
    beside = torch.cat(tables, dim=-1)  # (B, sum of D): one journey for all
    mine = own_rows(len(beside) * processes())
    around = (0, 0, mine.start, len(beside) * processes() - mine.stop)
    return total(F.pad(beside, around)).split([table.shape[-1] for table in tables], dim=-1)


def elsewhere(rows: Tensor) -> Tensor:
    """The rows ((P - 1) B, ...) of the other processes; none where there are none."""
    if processes() == 1:
        return rows.new_empty((0, *rows.shape[1:]))
    mine = own_rows(len(rows) * processes())
    if rows.is_floating_point():
        everyone = gather(rows)[0]
    else:
        everyone = torch.from_numpy(gather_array(rows.numpy(force=True))).to(rows.device)
    return torch.cat([everyone[: mine.start], everyone[mine.stop :]])


def gather_array(rows: np.ndarray) -> np.ndarray:
    """The rows (P B, ...) of all processes, in their order."""
    if processes() == 1:
        return rows
    everyone = np.zeros((len(rows) * processes(), *rows.shape[1:]), rows.dtype)
    everyone[own_rows(len(everyone))] = rows
    dist.all_reduce(torch.from_numpy(everyone))
    return everyone


def share(model: nn.Module) -> None:
    """Give all processes the writer's weights, and every BatchNorm the whole batch to look at."""
    from retrieval.global_batch_norm import with_global_batch_norm

    if processes() == 1:
        return
    with_global_batch_norm(model)
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.data, 0)


def average_gradients(model: nn.Module) -> None:
    """Replace gradients by their mean over the processes: the whole batch's."""
    if processes() == 1:
        return
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


# numbers


def average(*numbers: float) -> list[float]:
    """The mean of each number over the processes."""
    return list(numbers) if processes() == 1 else [one / processes() for one in _sums(numbers)]


def weight(count: float) -> float:
    """What to multiply a mean over this process's items with, for the mean over all in the end.

    `average_gradients` gives every process the same weight, whatever it has counted.
    """
    (usual,) = average(float(count))
    return 1.0 if processes() == 1 or usual == 0 else float(count) / usual


def from_writer(number: float) -> float:
    """The writer's number, so that all go the same way."""
    return number if processes() == 1 else _sums([number if is_writer() else 0.0])[0]


def _sums(numbers: Sequence[float]) -> list[float]:
    sums = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(sums)
    return cast("list[float]", sums.tolist())
