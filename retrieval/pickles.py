"""Read published `.npy` and `.p` files without running what a pickle could run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

_ALLOWED = {
    ("builtins", name)
    for name in ("dict", "list", "tuple", "set", "frozenset", "str", "bytes", "int", "float")
}
_ALLOWED |= {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
_ALLOWED |= {
    (f"numpy.{core}.multiarray", name)
    for core in ("core", "_core")
    for name in ("_reconstruct", "scalar")
}
_BUILTINS_2 = {"__builtin__": "builtins"}  # as Python 2 wrote it


class _Restricted(pickle.Unpickler):
    """Admits the builtin containers and NumPy arrays, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        module = _BUILTINS_2.get(module, module)
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def load_pickled(path: Path) -> Any:
    """The object in a pickle file, or in the object array of an `.npy` file.

    Raises:
        ValueError: the file is truncated, is no such file, or holds anything but the builtin
            containers, numbers, strings and NumPy arrays.
    """
    try:
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                version = np.lib.format.read_magic(_rewound(file))
                read_header = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(file)
                if not dtype.hasobject:
                    raise ValueError("it holds plain numbers, no pickled object")
                return _Restricted(file, encoding="latin-1").load().reshape(shape)
            return _Restricted(_rewound(file), encoding="latin-1").load()
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"cannot read {path}: expected a complete file of plain containers and arrays, "
            f"but {error or 'it ends early'}; fetch or make it again"
        ) from error


def _rewound(file: Any) -> Any:
    file.seek(0)
    return file
