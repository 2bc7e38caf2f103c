"""The part of every batch that one host reads, of a stream that all hosts have in common."""

from collections.abc import Sequence
from typing import Any

import grain


class RowsOfBatches(grain.MapDataset):
    """Of each `batch_size` consecutive elements those at the places `rows`."""

    def __init__(self, parent: grain.MapDataset, rows: Sequence[int], batch_size: int):
        """Reads nothing yet.

        Args:
            parent: the elements of all hosts.
            rows: rising, from 0 to batch_size - 1.
            batch_size: of all hosts together.
        """
        super().__init__(parent)
        self._rows, self._batch_size = tuple(rows), batch_size

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, len(self._rows))
        return self._parent[batch * self._batch_size + self._rows[place]]

    def __str__(self) -> str:
        return f"RowsOfBatches({len(self._rows)} of {self._batch_size})"
