"""Locks: one thread at a time runs a network, because hooks and memory format belong to it."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["NetworkLock", "network_lock"]


class NetworkLock:
    """A re-entrant lock that can be copied and pickled; the copy is a lock of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> Any:
        return NetworkLock, ()


_LOCKS: WeakKeyDictionary[nn.Module, NetworkLock] = WeakKeyDictionary()
_OF_LOCKS = threading.Lock()


def network_lock(network: nn.Module) -> NetworkLock:
    """Return the lock of a network, the same for every `VideoModel` around it."""
    with _OF_LOCKS:
        return _LOCKS.setdefault(network, NetworkLock())
