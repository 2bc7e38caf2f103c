"""Batches that are already on the devices when a step asks for them."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain

from posetraj_jax.structs import Batch


class DeviceBatches(grain.DatasetIterator):
    """Reads one batch ahead and moves it to the devices, in a thread, while a step runs.

    Its state is the place behind the last batch that was taken, not behind the one that was read
    ahead; so a checkpoint resumes with the batch that the next step would have had. Close it, or
    use it in `with`: the iterator that it reads from is closed too.
    """

    def __init__(self, batches: grain.DatasetIterator, put: Callable[[Batch], Batch]):
        """Starts to read.

        Args:
          batches: from here on used by nobody else.
          put: moves a batch to the devices; called in another thread.
        """
        super().__init__()
        self._batches, self._put = batches, put
        self._state = batches.get_state()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device_batches")
        self._ahead = self._thread.submit(self._make)

    def __enter__(self) -> "DeviceBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Batch:
        batch, self._state = self._ahead.result()  # raises here what was raised in the thread
        self._ahead = self._thread.submit(self._make)
        return batch

    def __str__(self) -> str:
        return f"DeviceBatches({self._batches})"

    def get_state(self) -> dict[str, Any]:
        """The place of the batch that is taken next."""
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a place; what was read ahead is forgotten.

        Raises:
          UserError: as the iterator's own.
        """
        self._forget()
        self._batches.set_state(state)
        self._state = self._batches.get_state()
        self._ahead = self._thread.submit(self._make)

    def close(self) -> None:
        """Ends the thread, after the batch that it is reading, and the iterator."""
        self._forget()
        self._thread.shutdown()
        self._batches.close()
        super().close()

    def _make(self) -> tuple[Batch, dict[str, Any]]:
        batch = self._put(next(self._batches))
        return batch, self._batches.get_state()

    def _forget(self) -> None:
        ahead: Future = self._ahead
        if not ahead.cancel():
            ahead.exception()  # waits; what was wrong with a batch that nobody takes is nobody's
