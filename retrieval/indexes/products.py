"""Who multiplies: NumPy or PyTorch, in float32 and in blocks, as a first look at the scores.

Both offer the same few operations on a block's table (B, W) of approximate scores, so that the
exact index is written once. Pairs come back as NumPy arrays, row after row.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any, Protocol

import numpy as np

from retrieval.indexes.selection import floor_of

Pairs = tuple[np.ndarray, np.ndarray]  # rows (M,) and columns (M,)
Scored = tuple[np.ndarray, np.ndarray, np.ndarray]  # and approximate scores (M,)
CONVERTED = 2**20  # numbers turned from float16 to float32 at once, so that they stay in the cache


class Products(Protocol):
    """Approximate scores of a block of images, and what is asked of them."""

    def table(self, query: np.ndarray, images: slice) -> Any:
        """Approximate scores (B, W) of queries (B, D) with a block of images."""
        ...

    def above(self, table: Any, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, Pairs]:
        """How many scores lie above `high` (B,), and the pairs from `low` to `high` (B, 1)."""
        ...

    def best(self, table: Any, k: int, least: np.ndarray, slack: np.ndarray) -> Scored:
        """What may be among the k best: within `slack` (B, 1) of a floor that k reach.

        `least` (B, 1) is a floor known before.
        """
        ...


class NumpyProducts:
    """On the CPU; float16 is turned into float32 piece by piece.

    Tables are made in memory that a thread keeps, for fresh memory costs a tenth of the product: a
    table is good until the thread's next one.
    """

    def __init__(self, embeddings: np.ndarray):
        self._embeddings = embeddings

    def table(self, query: np.ndarray, images: slice) -> np.ndarray:
        """See `Products`."""
        block = self._embeddings[images]
        table = _scratch(len(query), len(block))  # (B, W)
        if block.dtype == np.float32:
            return np.matmul(query, block.T, out=table)
        step = max(1, CONVERTED // max(1, block.shape[1]))
        piece = np.empty((min(step, len(block)), block.shape[1]), dtype=np.float32)
        for start in range(0, len(block), step):
            rows = block[start : start + step]
            _widen(rows, piece[: len(rows)])
            np.matmul(query, piece[: len(rows)].T, out=table[:, start : start + step])
        return table

    def above(
        self, table: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, Pairs]:
        """See `Products`."""
        over = table > high  # (B, W)
        count = np.array([np.count_nonzero(row) for row in over], dtype=np.int64)  # (B,)
        return count, _pairs(np.not_equal(over, table >= low, out=over))

    def best(self, table: np.ndarray, k: int, least: np.ndarray, slack: np.ndarray) -> Scored:
        """See `Products`."""
        floor = least
        if k <= table.shape[1]:
            floor = np.maximum(least, floor_of(table, k)[:, None])
        rows, columns = _pairs(table >= (floor - slack).astype(np.float32))
        return rows, columns, table[rows, columns]


_kept = threading.local()


def _scratch(rows: int, columns: int) -> np.ndarray:
    """A table (rows, columns) in this thread's memory."""
    memory: np.ndarray | None = getattr(_kept, "memory", None)
    if memory is None or memory.size < rows * columns:
        memory = _kept.memory = np.empty(rows * columns, dtype=np.float32)
    return memory[: rows * columns].reshape(rows, columns)


def _widen(half: np.ndarray, out: np.ndarray) -> None:
    """float16 as float32, by PyTorch: NumPy takes fourteen times as long."""
    _tensor(out).copy_(_tensor(half))


def _tensor(array: np.ndarray) -> Any:
    """A tensor on the same memory, which may be a read-only map: nothing here writes to it."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _pairs(chosen: np.ndarray) -> Pairs:
    """Where a table (B, W) is true; by its flat view, which is much faster for few."""
    flat = np.flatnonzero(chosen)
    rows, columns = np.divmod(flat, max(1, chosen.shape[1]))
    return rows, columns


class TorchProducts:
    """By PyTorch, on the CPU's threads or on a GPU, where a copy of the embeddings is kept.

    Args:
        embeddings: (N, D) float32 or float16; on a GPU they are kept in this precision.
        device: as PyTorch names it.

    Raises:
        ValueError: float32 products are set to less than float32 ("TF32", "bfloat16"), whose
            error has no useful bound, or there is no such device.
    """

    def __init__(self, embeddings: np.ndarray, device: str = "cpu"):
        import torch

        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"there is no GPU for device={device!r}; use device='cpu'")
        if torch.get_float32_matmul_precision() != "highest":
            raise ValueError(
                "exact ranks need float32 products in full; call "
                "torch.set_float32_matmul_precision('highest')"
            )
        self.device = device
        self._embeddings = _tensor(embeddings).to(device)

    def table(self, query: np.ndarray, images: slice) -> Any:
        """See `Products`; a tensor."""
        import torch

        asked = torch.from_numpy(query).to(self.device)
        block = self._embeddings[images]
        if block.dtype == torch.float32:
            return asked @ block.T
        step = max(1, (CONVERTED if self.device == "cpu" else 2**27) // max(1, block.shape[1]))
        return torch.cat([asked @ rows.float().T for rows in block.split(step)], dim=1)

    def above(self, table: Any, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, Pairs]:
        """See `Products`."""
        over = table > self._column(high)
        rows, columns = (over != (table >= self._column(low))).nonzero(as_tuple=True)
        return over.sum(dim=1).cpu().numpy(), (rows.cpu().numpy(), columns.cpu().numpy())

    def best(self, table: Any, k: int, least: np.ndarray, slack: np.ndarray) -> Scored:
        """See `Products`."""
        floor = self._column(least)
        if k <= table.shape[1]:
            floor = floor.maximum(_torch_floor(table, k)[:, None])
        rows, columns = (table >= floor - self._column(slack)).nonzero(as_tuple=True)
        values = table[rows, columns]
        return rows.cpu().numpy(), columns.cpu().numpy(), values.cpu().numpy()

    def _column(self, bound: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.asarray(bound, dtype=np.float32)).to(self.device)


def _torch_floor(table: Any, k: int) -> Any:
    """`floor_of` for a tensor (B, W)."""
    groups = max(256, 4 * k)
    if table.shape[1] >= 4 * groups:
        deep = table.shape[1] // groups
        table = table[:, : deep * groups].reshape(len(table), deep, groups).amax(dim=1)
    return table.topk(k, dim=1).values[:, -1]
