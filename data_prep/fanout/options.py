"""Command line options that all preparations share."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from data_prep.fanout.hand import HandOptions
from data_prep.fanout.pipeline import FanoutOptions

GIGA = 10**9

Number = TypeVar("Number", int, float)


def add_options(
    parser: argparse.ArgumentParser, *, timeout_s: float, memory_gb: float = 8.0
) -> None:
    """Adds the options of the fan-out; what follows a lone '--' goes to Beam as it is."""
    group = parser.add_argument_group("how the work is spread")
    add = group.add_argument
    add("--parts", type=Path, help="folder of what is finished (.NAME.parts beside what is made)")
    add("--workers", type=_up_to(512, positive_integer), help="processes (one for every core)")
    add(
        "--timeout_s",
        type=_up_to(10**7, positive_number),
        default=timeout_s,
        help="of a task (%(default)s)",
    )
    add(
        "--retries",
        type=_up_to(100, whole),
        default=1,
        help="after a crash or a timeout (%(default)s)",
    )
    add(
        "--memory_gb",
        type=_up_to(10**6, number),
        default=memory_gb,
        help="of a process, 0 = all (%(default)s)",
    )
    add("--accept_rejects", action="store_true", help="exit with 0 though sources were left out")
    parser.epilog = "Options of Apache Beam, such as -- --runner=FlinkRunner, go after a lone '--'."


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """The options of a preparation and those of Beam, as `--name=value` each."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, beam = parser.parse_args(arguments[:split]), tuple(arguments[split + 1 :])
    if wrong := [text for text in beam if not text.startswith("--")]:
        parser.error(f"{wrong[0]}: write options of Beam as --name=value")
    return options, beam


def fanout_options(
    options: argparse.Namespace, beam: tuple[str, ...], *, unit: str, tasks_per_process: int = 1
) -> FanoutOptions:
    """What `pipeline.run` needs."""
    hand = HandOptions(
        timeout_s=options.timeout_s,
        memory_bytes=round(options.memory_gb * GIGA),
        retries=options.retries,
        tasks_per_process=tasks_per_process,
    )
    return FanoutOptions(options.workers, hand, unit, beam)


def _up_to(most: int, kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """An argument of a kind, and at most this."""

    def limited(text: str) -> Number:
        if kind(text) > most:
            raise argparse.ArgumentTypeError(f"{text}: the most is {most}")
        return kind(text)

    limited.__name__ = kind.__name__  # as argparse calls it
    return limited


def whole(text: str) -> int:
    """An argument of 0 or more."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def positive_integer(text: str) -> int:
    """An argument of 1 or more."""
    if whole(text) == 0:
        raise ValueError
    return whole(text)


def number(text: str) -> float:
    """A finite argument of 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def positive_number(text: str) -> float:
    """A finite argument above 0."""
    if number(text) == 0:
        raise ValueError
    return number(text)
