"""A second device for machines that have none.

PyTorch's device "meta" has shapes and no numbers. Here its tensors have numbers after all, which
lie on the CPU: what a GPU would refuse is refused (an operation on tensors of two devices, a CPU
tensor with dimensions among others), and what a GPU would have to be waited for is noted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

PRETEND = torch.device("meta")
ASKED = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
"""What looks at numbers, so that the host waits."""
INDEXED = ("index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put")
"""What takes positions from the CPU, as on a GPU."""


class There(Tensor):
    """A tensor that says it is on the device and holds its numbers on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        made: There = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=PRETEND, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        raise AssertionError("tensors of the pretended device outlive it")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # checkpoints are read on the CPU

    def __repr__(self) -> str:
        return f"There({self.held})"


class PretendedDevice(TorchDispatchMode):
    """While this is entered, `device="meta"` works; see the module.

    `waits` counts what the host would have waited for, by operation: "to the host" are copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [it for it in tree_flatten((args, kwargs))[0] if isinstance(it, Tensor)]
        there = [it for it in tensors if isinstance(it, There)]
        moves = name in ("to", "_to_copy", "copy_", "lift_fresh")
        if there and not moves and name not in INDEXED:
            stray = [it for it in tensors if not isinstance(it, There) and it.dim()]
            assert not stray, f"{func}: {len(stray)} of {len(tensors)} tensors are on the CPU"
        named = [it for it in tree_flatten((args, kwargs))[0] if isinstance(it, torch.device)]
        goes_there = named[0] == PRETEND if named else bool(there)
        if name in ASKED and there:
            self.waits[name] += 1
        if name == "copy_":
            goes_there = isinstance(args[0], There)
        if there and not goes_there:
            self.waits["to the host"] += 1
        with torch.inference_mode(False), torch.no_grad():  # wrappers know no inference tensors
            result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
            if torch.Tag.inplace_view in func.tags:  # its shape is the wrapper's too
                with no_dispatch():
                    func(*args, **kwargs)
        if name == "copy_":
            return args[0]
        # what was done in place comes out as it came
        given = {} if moves else {id(_held(it)): it for it in tensors}

        def out(value: Any) -> Any:
            known = given.get(id(value))
            wraps = known is None and goes_there and isinstance(value, Tensor)
            return There(value) if wraps else value if known is None else known

        with torch.inference_mode(False):
            return tree_map(out, result)


def _held(value: Any) -> Any:
    """What the CPU works on in place of a value."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, There) else value
