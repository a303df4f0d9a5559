"""Who multiplies: NumPy or PyTorch, in float32 and in blocks, as a first look at the scores.

Both take the same look at a block's approximate scores (B, W), so that the exact index is written
once. Pairs come back as NumPy arrays, row after row.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any, NamedTuple, Protocol

import numpy as np

from retrieval.indexes.selection import floor_of

Pairs = tuple[np.ndarray, np.ndarray]  # rows (M,) and columns (M,)
Scored = tuple[np.ndarray, np.ndarray, np.ndarray]  # and approximate scores (M,)
CONVERTED = 2**20  # numbers turned from float16 to float32 at once, so that they stay in the cache
OPEN_SHARE = 16  # a block with more than 1/16 of its pairs left open is done in double precision
ONE_BY_ONE = 3  # queries that are multiplied one after the other: together they take longer
AT_ONCE = 2**19  # scores looked through at once, so that they stay in the cache: 2 MB


class Wish(NamedTuple):
    """What is asked of a block of images under B queries."""

    between: tuple[np.ndarray, np.ndarray] | None  # bounds (B, 1) to count above; None: not asked
    k: int  # how many of the best; 0: not asked
    least: np.ndarray  # (B, 1) what the k-th best is known to reach
    slack: np.ndarray  # (B, 1) how far below a floor the scores of the best can lie


class Look(NamedTuple):
    """What a first look at a block of images W finds for B queries.

    It may end where more than 1 / `OPEN_SHARE` of all pairs are open, and the list of the best
    where it is as long: then the block is done without it.
    """

    above: np.ndarray  # (B,) scores above the upper bound
    open: Pairs  # those from the lower to the upper one
    best: Scored  # what may be among the k best: within `slack` of a floor that k reach


NOTHING = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)


class Products(Protocol):
    """Approximate scores of a block of images, and what is asked of them."""

    def look(self, query: np.ndarray, images: slice, wish: Wish) -> Look:
        """Multiply queries (B, D) with a block of images, and look through the scores."""
        ...


class NumpyProducts:
    """On the CPU; float16 is turned into float32 piece by piece.

    Tables are made in memory that a thread keeps, for fresh memory costs a tenth of the product: a
    table is good until the thread's next one. It is larger than the cache, so it is looked through
    a few rows after the other, all questions at once. (Narrower tables would do as well, but for
    rows of less than 8,192 numbers NumPy takes two to three times as long to compare each.)
    """

    def __init__(self, embeddings: np.ndarray):
        self._embeddings = embeddings

    def look(self, query: np.ndarray, images: slice, wish: Wish) -> Look:
        """See `Products`."""
        table = self._table(query, images)  # (B, W)
        above, open_, best = [], [], []
        many, undecided, listed = table.size // OPEN_SHARE, 0, 0
        step = max(1, AT_ONCE // max(1, table.shape[1]))
        for start in range(0, len(table), step):
            part = slice(start, start + step)
            if wish.between is not None and undecided <= many:
                low, high = wish.between
                over, (rows, columns) = _above(table[part], low[part], high[part])
                above.append(over)
                open_.append((rows + start, columns))
                undecided += len(rows)
            if wish.k and undecided <= many and listed <= many:
                rows, columns, scores = _best(
                    table[part], wish.k, wish.least[part], wish.slack[part]
                )
                best.append((rows + start, columns, scores))
                listed += len(rows)
        return Look(
            np.concatenate(above) if above else np.zeros(len(query), np.int64),
            _joined(open_, NOTHING[:2]),
            _joined(best, NOTHING),
        )

    def _table(self, query: np.ndarray, images: slice) -> np.ndarray:
        """Approximate scores (B, W)."""
        block = self._embeddings[images]
        table = _scratch(len(query), len(block))  # (B, W)
        if block.dtype == np.float32:
            return _multiply(query, block, table)
        step = max(1, CONVERTED // max(1, block.shape[1]))
        piece = np.empty((min(step, len(block)), block.shape[1]), dtype=np.float32)
        for start in range(0, len(block), step):
            rows = block[start : start + step]
            _widen(rows, piece[: len(rows)])
            _multiply(query, piece[: len(rows)], table[:, start : start + step])
        return table


def _multiply(query: np.ndarray, images: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Products (B, W) of queries (B, D) and images (W, D)."""
    if len(query) > ONE_BY_ONE:
        return np.matmul(query, images.T, out=out)
    for one, scores in zip(query, out, strict=True):
        np.matmul(images, one, out=scores)
    return out


def _above(table: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, Pairs]:
    """How many scores of a table (B, W) are above `high` (B,), and where those from `low` are."""
    over = table > high  # (B, W)
    count = np.array([np.count_nonzero(row) for row in over], dtype=np.int64)  # (B,)
    return count, _pairs(np.not_equal(over, table >= low, out=over))


def _best(table: np.ndarray, k: int, least: np.ndarray, slack: np.ndarray) -> Scored:
    """Where the scores of a table (B, W) lie within `slack` of a floor that k of a row reach."""
    floor = least
    if k <= table.shape[1]:
        floor = np.maximum(least, floor_of(table, k)[:, None])
    rows, columns = _pairs(table >= (floor - slack).astype(np.float32))
    return rows, columns, table[rows, columns]


def _joined(parts: list[Any], nothing: Any) -> Any:
    """Pairs of one part of a table after another, with scores or without."""
    if len(parts) < 2:
        return parts[0] if parts else nothing
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


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

    def look(self, query: np.ndarray, images: slice, wish: Wish) -> Look:
        """See `Products`."""
        table = self._table(query, images)
        above, open_ = np.zeros(len(query), np.int64), NOTHING[:2]
        if wish.between is not None:
            above, open_ = self._above(table, *wish.between)
        return Look(above, open_, self._best(table, wish) if wish.k else NOTHING)

    def _table(self, query: np.ndarray, images: slice) -> Any:
        """Approximate scores (B, W), a tensor."""
        import torch

        asked = torch.from_numpy(query).to(self.device)
        block = self._embeddings[images]
        if block.dtype == torch.float32:
            return asked @ block.T
        step = max(1, (CONVERTED if self.device == "cpu" else 2**27) // max(1, block.shape[1]))
        return torch.cat([asked @ rows.float().T for rows in block.split(step)], dim=1)

    def _above(self, table: Any, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, Pairs]:
        """As in `NumpyProducts`."""
        over = table > self._column(high)
        rows, columns = (over != (table >= self._column(low))).nonzero(as_tuple=True)
        return over.sum(dim=1).cpu().numpy(), (rows.cpu().numpy(), columns.cpu().numpy())

    def _best(self, table: Any, wish: Wish) -> Scored:
        """As in `NumpyProducts`."""
        floor = self._column(wish.least)
        if wish.k <= table.shape[1]:
            floor = floor.maximum(_torch_floor(table, wish.k)[:, None])
        rows, columns = (table >= floor - self._column(wish.slack)).nonzero(as_tuple=True)
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
