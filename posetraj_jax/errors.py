"""The one exception for mistakes a user can mend, and how an entry point reports it."""

import sys
from collections.abc import Callable, Sequence

EXIT_USER_ERROR = 2
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
    shown = [f"\n    - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        shown.append(f"\n    … and {len(problems) - limit} more")
    return "".join(shown)


def run(main: Callable[[], int | None]) -> None:
    """Runs an entry point; a `UserError` becomes a message on stderr and exit code 2."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
