"""How long the fast engine takes for a frame, and for a clip with all that belongs to it.

    python -m benchmarks.fast_engine

One core. Rows are the built-in toys; times are the least of three runs, because machines are noisy.
"""

import time
from collections.abc import Callable

import cv2

from data_prep.engines import annotations, fast, verify
from data_prep.engines.rendered_clip import Packing, make_clip
from data_prep.objects.model import sides
from data_prep.objects.toy_models import TOYS, toy_model
from data_prep.scenes.posetraj import SceneOptions, Thing, make_scene

BAR_S = 0.1
RUNS = 3
PACKING = Packing(90, depth=True, licence="CC0-1.0", source="benchmark")


def least(work: Callable[[], object]) -> float:
    """Seconds of the fastest of RUNS runs."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Prints a row for each toy, and the ratios."""
    cv2.setNumThreads(1)
    print("toy       triangles   s/frame   clip of 14 frames, stored and checked")
    worst, shares = 0.0, []
    for asset in TOYS:
        model = toy_model(asset)
        name = asset.partition(":")[2]
        scene = make_scene(SceneOptions(), [Thing(asset, name, sides(model))], 0)
        frames = list(fast.render(scene, [model]))

        def finish(scene=scene, model=model, frames=frames) -> None:
            notes = annotations.annotate(scene, fast.surfaces(scene, [model]), fast.ENGINE)
            if wrong := verify.problems(make_clip(scene, notes, frames, PACKING)):
                raise AssertionError(wrong)

        drawing = least(lambda scene=scene, model=model: list(fast.render(scene, [model])))
        finishing = least(finish)
        worst = max(worst, drawing / scene.frames)
        shares.append((drawing + finishing) / drawing)
        print(
            f"{name:9} {len(model.triangles):9,} {drawing / scene.frames:9.3f} "
            f"{drawing + finishing:8.2f} s"
        )
    print(f"\nratios\n  slowest toy / bar of {BAR_S} s a frame    {worst / BAR_S:5.2f}")
    print(f"  whole clip / its rendering        {sum(shares) / len(shares):5.2f}")


if __name__ == "__main__":
    main()
