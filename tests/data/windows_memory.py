"""Prints the memory of this process and its children after 100 windows and after 600, bytes."""

import itertools
import json
import sys
from pathlib import Path

from posetraj_jax.data.pipeline import DataOptions, train_batches

WINDOWS = (100, 600)
BATCH = 4


def main() -> None:
    options = DataOptions(
        path=sys.argv[1],
        height=64,
        width=128,
        batch_size=BATCH,
        draw_box=True,
        condition_on_box=True,
        seed=0,
        num_workers=int(sys.argv[2]),
    )
    batches, sizes, taken = train_batches(options), [], 0
    for windows in WINDOWS:
        for _ in itertools.islice(batches, (windows - taken) // BATCH):
            pass
        taken = windows
        sizes.append(resident_bytes())
    print(json.dumps(sizes))
    batches.close()


def resident_bytes() -> int:
    """Of this process and the workers below it."""
    own = Path("/proc/self")
    children = (own / "task" / own.resolve().name / "children").read_text().split()
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in (*children, "self")]
    lines = [line for text in statuses for line in text.splitlines()]
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
