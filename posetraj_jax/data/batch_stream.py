"""An endless iterator of batches whose state is a place in the stream of clips, and nothing else.

Grain's own states are those of its parts: one that was taken with worker processes holds a place
for each of them, and means nothing, or worse something else, to another number of workers. Here a
state is the number of clips that all hosts together have taken. Whatever only changes how the work
is done (worker processes, threads, the size of a batch, the number of hosts) may differ when it is
set again. What changes which window comes next may not, and is compared.
"""

from collections.abc import Callable, Mapping
from typing import Any

import grain

from posetraj_jax.errors import UserError, listed
from posetraj_jax.structs import Batch

PLACE = "clips_taken"
STATE_FIX = (
    "resume with the data and options of that run, or start a new run: its clips would come in "
    "another order"
)


class BatchStream(grain.DatasetIterator):
    """Batches from a place on; its state goes into a checkpoint as JSON, the same on all hosts."""

    def __init__(
        self,
        open_at: Callable[[int], grain.DatasetIterator],
        clips_per_batch: int,
        order: Mapping[str, Any],
    ):
        """Opens nothing yet.

        Args:
            open_at: gives the iterator of the batches after so many clips of the stream.
            clips_per_batch: of all hosts together.
            order: JSON of all that decides which window comes next; it is part of the state.
        """
        super().__init__()
        self._open_at, self._clips_per_batch, self._order = open_at, clips_per_batch, dict(order)
        self._taken = 0
        self._batches: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        try:
            batch = next(self._opened())
        except BaseException:
            self._shut()  # Grain would go on behind the batch that failed, and count it as taken
            raise
        self._taken += self._clips_per_batch
        return batch

    def __str__(self) -> str:
        return f"BatchStream(taken={self._taken})"

    def start_prefetch(self) -> None:
        """Begins to read before the first batch is asked for."""
        self._opened().start_prefetch()

    def get_state(self) -> dict[str, Any]:
        """The place of the next batch, as JSON."""
        return {PLACE: self._taken, **self._order}

    def set_state(self, state: Any) -> None:
        """Continues where a state was taken, with any number of workers, threads and hosts.

        Raises:
            UserError: the state is of other clips, of another order of them, or no such state.
        """
        state = state if isinstance(state, dict) else {}  # of a file that anyone may have written
        taken = state.get(PLACE)
        problems = [
            f"{name}: {state.get(name)!r} in the checkpoint, now {value!r}"
            for name, value in self._order.items()
            if state.get(name) != value
        ]
        if type(taken) is not int or taken < 0:
            problems = [f"{PLACE}: {taken!r}, with the fields {', '.join(sorted(state))}"]
        if problems:
            raise UserError(
                "The data cannot be continued from the checkpoint",
                expected="the clips, windows and seed that it was written with",
                got=listed(problems),
                fix=STATE_FIX,
            )
        self._shut()
        self._taken = taken

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        self._shut()
        super().close()

    def _opened(self) -> grain.DatasetIterator:
        if self._batches is None:
            self._batches = self._open_at(self._taken)
        return self._batches

    def _shut(self) -> None:
        if self._batches is not None:
            self._batches.close()
        self._batches = None
