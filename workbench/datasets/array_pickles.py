"""Pickles of numpy arrays and plain containers, read without running anything that they hold."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load_arrays"]


def load_arrays(path: Path) -> Any:
    """Return what a pickle of Python 2 or 3 holds: containers, numbers, texts and numpy arrays.

    Raises:
        ValueError: the file asks for anything else, such as a function to call, or is no pickle.
            Nothing of it has been run then.
    """
    try:
        # Python 2 wrote the bytes of arrays as text in this encoding.
        return _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="iso-8859-1").load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path} is no pickle of arrays: {error}. Get the file again.") from error


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few functions that rebuild arrays."""
        # numpy 2 renamed numpy.core; files name whichever wrote them.
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _ALLOWED[key]

    def persistent_load(self, pid: Any) -> Any:
        """Refuse objects that are stored elsewhere."""
        raise pickle.UnpicklingError("it refers to objects outside the file, which is refused")


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that an old protocol stored as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}, which is refused")
    return text.encode("latin1")


def _numpy_functions() -> dict[tuple[str, str], Callable]:
    """Return numpy's own functions to rebuild arrays, taken from what it writes."""
    array: Any = np.zeros(1)
    number: Any = np.float64(0)
    reconstruct = array.__reduce__()[0]
    from_buffer = array.__reduce_ex__(5)[0]
    scalar = number.__reduce__()[0]
    return {
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,
        ("numpy.core.numeric", "_frombuffer"): from_buffer,
        ("numpy.core.multiarray", "scalar"): scalar,
    }


_ALLOWED: dict[tuple[str, str], Any] = {
    **_numpy_functions(),
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
