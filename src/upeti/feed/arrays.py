"""An array that grows as items come."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_FIRST: Final = 1024


class Growing:
    """Rows of one shape; ``values`` is a view of those that are in use, good until the next ``resize``."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, fill: float = 0.0) -> None:
        self._fill = fill
        self._all: NDArray[Any] = np.full((_FIRST, *shape), fill, dtype)
        self.values: NDArray[Any] = self._all[:0]

    def resize(self, size: int) -> None:
        """Make ``size`` rows usable; new ones hold the fill value. Doubles, so that growing costs the same per row."""
        if size > len(self._all):
            larger = np.full((max(size, 2 * len(self._all)), *self._all.shape[1:]), self._fill, self._all.dtype)
            larger[: len(self.values)] = self.values
            self._all = larger
        self.values = self._all[:size]
