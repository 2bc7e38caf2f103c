"""Serves the page for the browser tests: `python -m tests.web.serve LOG [options of the demo]`.

LOG receives one line for each thing that a test wants to know of the server. The narrowest networks
take the place of the model unless WEB_TEST_MODEL=own, and each of their steps takes at least
WEB_TEST_STEP_S seconds. A video whose seed is FAILS breaks.
"""

import ipaddress
import os
import socket
import sys
import time
from pathlib import Path

FAILS = 13
LOG = Path(sys.argv[1]) if __name__ == "__main__" else None


def tell(line: str) -> None:
    with LOG.open("a") as file:
        file.write(line + "\n")


def guard_sockets() -> None:
    """Tells of every connection and every look-up that is not of this machine."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
            tell(f"outside: connection to {address}")
        return connect(self, address)

    def guarded_look_up(host, *arguments, **options):
        if not is_loopback(host):
            tell(f"outside: look-up of {host}")
        return look_up(host, *arguments, **options)

    socket.socket.connect, socket.getaddrinfo = guarded_connect, guarded_look_up


def is_loopback(host) -> bool:
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def slow_down(desk) -> None:
    """Tells when videos begin and end, breaks those of the seed FAILS, and takes its time."""
    generate_many, least = desk.generate_many, float(os.environ.get("WEB_TEST_STEP_S", 0))

    def told(requests, model, settings, progress):
        tell("begin")
        try:
            if settings.seed == FAILS:
                raise RuntimeError("as the test asked")

            def slowly(done, total):
                time.sleep(least)
                return progress(done, total)

            yield from generate_many(requests, model, settings, slowly)
        finally:
            tell("end")

    desk.generate_many = told


def main() -> None:
    guard_sockets()
    from posetraj_jax import demo, errors
    from posetraj_jax.sampling import command_line
    from posetraj_jax.web import desk

    if os.environ.get("WEB_TEST_MODEL") != "own":
        from tests.sampling.models import micro_model

        command_line.load_model = lambda *_, **__: micro_model()
    slow_down(desk)
    errors.run(lambda: demo.main(sys.argv[2:]))


if __name__ == "__main__":
    main()
