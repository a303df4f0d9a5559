"""The one door to torchvision.

Some CPU builds of torchvision fail at import because the operators `nms` and `qnms` that they
describe are not compiled in ("operator torchvision::nms does not exist"). Their schemas are
declared here first, only where they are missing; the transforms and models then work.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@cache
def _library() -> torch.library.Library:
    """Keeps the declared schemas alive for as long as the process runs."""
    return torch.library.Library("torchvision", "FRAGMENT")


def torchvision() -> ModuleType:
    """The torchvision package with `models` and `transforms` imported.

    Raises:
        ImportError: torchvision is not installed; the message says what to install.
    """
    try:
        package = importlib.import_module("torchvision")
    except RuntimeError:  # the operators are missing: declare them and try again
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                _library().define(schema)
        package = importlib.import_module("torchvision")
    except ImportError as error:
        raise ImportError("torchvision is not installed: `pip install torchvision`") from error
    importlib.import_module("torchvision.models")
    importlib.import_module("torchvision.transforms")
    return package
