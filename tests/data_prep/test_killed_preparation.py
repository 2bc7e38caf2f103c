"""Preparations killed with -9, the whole tree, again and again: the same bytes at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import real_videos

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[2]
KILLS = 10
STARTING_SECONDS = 1.5


def commands(folder: Path, out: str) -> dict[str, list[str]]:
    """What is killed: clips rendered from toys, and videos of VIPSeg's layout."""
    return {
        "render": [
            "data_prep.render_posetraj10k",
            *(f"--out={folder / out}", "--engine=fast", "--objects=builtin:car,duck,chair,robot"),
            *("--paths_per_object=10", "--width=288", "--height=160", "--workers=2"),
        ],
        "vipseg": [
            "data_prep.vipseg",
            *(str(folder / "raw"), f"--out={folder / out}", "--min_frames=2", "--workers=2"),
        ],
    }


def write_raw(root: Path) -> None:
    """Videos that take a second each: 15 pictures of 1280 x 720."""
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    picture = real_videos.encoded(noise, "JPEG")
    tracks = json.dumps(real_videos.tracks_of(15)).encode()
    for number in range(24):
        for frame in range(15):
            real_videos.write(root / f"imgs/video-{number:02d}/{frame:05d}.jpg", picture)
        real_videos.write(root / f"trajectory_CoTracker_all/video-{number:02d}.json", tracks)


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_tree(process: subprocess.Popen) -> None:
    """Kills the driver and, at the same moment, all of its workers."""
    children = subprocess.run(
        ["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True
    ).stdout.split("\n")[1:]
    pairs = [tuple(map(int, line.split())) for line in children if line.strip()]
    tree, size = {process.pid}, 0
    while len(tree) > size:
        size = len(tree)
        tree |= {pid for pid, parent in pairs if parent in tree}
    for pid in tree:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def finished_clips(folder: Path) -> dict[str, tuple[int, int]]:
    """The finished clips and when each was made."""
    found = {}
    for path in folder.rglob("*.clip"):
        if not path.name.startswith(".partial-"):
            status = path.stat()
            found[f"{path.parent.name}/{path.name}"] = (status.st_ino, status.st_mtime_ns)
    return found


def dataset_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".parts" not in str(path))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["render", "vipseg"])
def test_killed_ten_times_the_dataset_is_the_same(tmp_path, kind):
    if kind == "vipseg":
        write_raw(tmp_path / "raw")
    started = time.monotonic()
    said = start(commands(tmp_path, "whole")[kind]).communicate()[0]
    lasts = time.monotonic() - started
    whole = dataset_bytes(tmp_path / "whole")
    assert whole, said
    rng, before, again, kills = np.random.default_rng(0), {}, 0, 0
    while kills < KILLS:
        process = start(commands(tmp_path, "killed")[kind])
        try:
            process.wait(timeout=STARTING_SECONDS + rng.uniform(0.0, 0.15) * lasts)
        except subprocess.TimeoutExpired:
            kill_tree(process)
        else:
            break
        kills += 1
        now = finished_clips(tmp_path)
        again += sum(now.get(name) != made for name, made in before.items())
        before = now
    said = start(commands(tmp_path, "killed")[kind]).communicate()[0] if kills == KILLS else ""
    print(f"{kind}: {kills} kills, {len(before)} clips finished before the last run")
    assert again == 0, "a finished clip was made again"
    assert dataset_bytes(tmp_path / "killed") == whole, said
    assert kills >= KILLS // 2
