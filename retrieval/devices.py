"""Where tensors live: the CPU, or a GPU."""

from __future__ import annotations

import os
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

CPU = torch.device("cpu")
Settled = TypeVar("Settled", bound=nn.Module)


def device_of(name: str) -> torch.device:
    """A device by PyTorch's name; of processes that `torchrun` started each has its own GPU.

    Raises:
        ValueError: no such device, or none of it on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"expected a device such as cpu, cuda or cuda:1, got {name!r}") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if (device.index or 0) >= count:
            raise ValueError(
                f"PyTorch finds {count} GPUs here, so there is no {device}; use --device cpu, or a "
                "build of PyTorch for this machine's GPUs"
            )
    return device


def place_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(module.parameters()).device


def put(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Values of the host on a device, through pinned memory where it is a GPU.

    The copy runs beside what the GPU is doing; on the CPU nothing is copied.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers as an array; where they lie on a GPU, it is waited for."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def settle(module: Settled, device: torch.device) -> Settled:
    """A module on a device; off the CPU its pictures' weights are laid out channels last.

    That is the layout of cuDNN's convolutions on tensor cores, which 16-bit arithmetic uses.
    """
    if device != CPU:
        for parameter in module.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module.to(device)
