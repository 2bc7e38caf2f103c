"""The one exception for mistakes a user can mend, and how an entry point reports it."""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TypeVar

Result = TypeVar("Result")

EXIT_USER_ERROR = 2
EXIT_LOST_PROCESS = 75
"""Another process of the run is lost: nothing is wrong with this one, which may be run again."""
EXIT_BY_SIGNAL = 128
"""Plus the number of the signal: 143 for SIGTERM, 130 for Ctrl-C."""


class UserError(Exception):
    """Something a user gave cannot be used.

    Every message has four parts: what failed, what was expected, what was found, and what to do
    about it. Boundaries (configs, files, weights, data) raise it; nothing inside a traced function
    does.
    """

    def __init__(self, what: str, *, expected: str, got: str, fix: str):
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        super().__init__(what, expected, got, fix)

    def __reduce__(self):
        # Data workers send exceptions between processes; keyword-only fields need a rebuild.
        return _rebuild, (self.what, self.expected, self.got, self.fix)

    def __str__(self) -> str:
        parts = {"expected": self.expected, "got": self.got, "do": self.fix}
        return self.what + "".join(f"\n  {name + ':':<9} {text}" for name, text in parts.items())


def _rebuild(what: str, expected: str, got: str, fix: str) -> UserError:
    return UserError(what, expected=expected, got=got, fix=fix)


def listed(problems: Sequence[str], limit: int = 12) -> str:
    """Joins collected problems into one indented block, shortened after `limit` lines."""
    shown = [f"\n    - {_printable(problem)}" for problem in problems[:limit]]
    if len(problems) > limit:
        shown.append(f"\n    … and {len(problems) - limit} more")
    return "".join(shown)


def _printable(text: str, most: int = 300) -> str:
    """What strangers' files say, without control characters and not endlessly."""
    short = text if len(text) <= most else f"{text[:most]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def all_of(what: str, calls: Iterable[Callable[[], Result]]) -> list[Result]:
    """What all calls return; or, once all were tried, one UserError with everything they said."""
    results, errors = [], []
    for call in calls:
        try:
            results.append(call())
        except UserError as error:
            errors.append(error)
    if len(errors) > 1:
        raise UserError(
            what,
            expected="; ".join(dict.fromkeys(error.expected for error in errors)),
            got="".join(f"\n    {error.what}: {error.got}" for error in errors),
            fix="; ".join(dict.fromkeys(error.fix for error in errors)),
        )
    if errors:
        raise errors[0]
    return results


def exit_code(error: BaseException) -> int:
    """With which code `run` exits if this is raised."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_BY_SIGNAL + signal.SIGINT
    return EXIT_USER_ERROR if isinstance(error, UserError | OSError) else 1


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs an entry point and exits.

    A `UserError`, or what the system refuses, becomes a message on stderr and exit code 2. SIGTERM
    and Ctrl-C unwind the program as an exception does, so that what is half written is removed, and
    exit with 128 + the signal.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(EXIT_BY_SIGNAL + number))
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:  # whoever read what is printed has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BY_SIGNAL + signal.SIGPIPE)
    except OSError as error:
        refused = UserError(
            "the system refuses a file or a folder",
            expected="paths that exist, are not too long, and that you may use",
            got=str(error),
            fix="mend what the line above names, or use another place",
        )
        print(f"error: {refused}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_BY_SIGNAL + signal.SIGINT)
