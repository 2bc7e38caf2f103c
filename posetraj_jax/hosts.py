"""Several processes, usually one for each machine, that train together: JAX's `distributed`.

Process 0 alone writes logs, pictures and records; all write checkpoints. Whatever decides what a
run does next is found by process 0 and told to the others, so that none waits for one that has gone
another way. With a single process everything here does nothing.
"""

import argparse
import atexit
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax._src import distributed  # the key-value store has no public name
from jax._src.clusters import ClusterEnv

from posetraj_jax import errors, peers
from posetraj_jax.errors import UserError, listed

CONNECT_S = 300
"""How long a process waits for the others to start."""
TOLD_S = 3600
"""How long a process waits for what others find out, if they are alive."""


@dataclass(frozen=True)
class HostOptions:
    """Who takes part, as `jax.distributed.initialize` calls it; None: as the environment says."""

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "HostOptions":
        """What a command line says that `add_arguments` has prepared."""
        return cls(arguments.coordinator_address, arguments.num_processes, arguments.process_id)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `HostOptions` to a command."""
    group = parser.add_argument_group(
        "several hosts",
        "all three, or none: TPU pods, SLURM and Open MPI are recognised; "
        "--num_processes=1 alone: this process by itself, wherever it runs",
    )
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--num_processes", type=int, help="that run this command together")
    group.add_argument("--process_id", type=int, help="of this one, from 0")


@contextmanager
def joined(options: HostOptions) -> Iterator[None]:
    """Connects the processes of a run for the time of the block, and disconnects them.

    If another process is lost, or leaves the block with an error, this one ends with a message that
    says so: exit code 75 for a lost one, else that of the other. All but process 0 are silent on
    stdout.

    Raises:
      UserError: the flags do not fit together, or process 0 cannot listen at the address. Where the
        processes do not find each other JAX ends them, with code 75 and a message.
    """
    arguments = _arguments(options) if options != HostOptions() else _as_launched()
    if arguments is None:
        yield
        return
    _connect(arguments)
    state = distributed.global_state
    others = peers.Peers(state.client, state.process_id, state.num_processes)
    peers.on_abort(lambda: others.explain_abort(state.coordinator_address))
    others.start()
    silence = contextlib.nullcontext() if state.process_id == 0 else _without_stdout()
    try:
        with silence:
            yield
    except BaseException as error:
        if errors.exit_code(error):
            _leave_with(error, others)
        else:
            _leave(others)
        raise
    _leave(others)


def _leave_with(error: BaseException, others: peers.Peers) -> None:
    if _is_of_runtime(error):
        others.wait_for_verdict()  # a broken collective looks like any failed computation
    code = errors.exit_code(error)
    others.leave(code, str(error) if isinstance(error, UserError) else repr(error))
    # The usual way out meets the others at a barrier, which they will not come to.
    atexit.register(peers.exit_now, code)


def _is_of_runtime(error: BaseException | None) -> bool:
    """Whether JAX's runtime raised it, or what it was made of: a lost process may be why."""
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None


def _leave(others: peers.Peers) -> None:
    others.leave(0, "finished")
    jax.distributed.shutdown()
    others.close()
    peers.on_abort(lambda: None)


def is_writer() -> bool:
    """Whether this process writes what all have in common."""
    return jax.process_index() == 0


def told(name: str, find: Callable[[], Any]) -> Any:
    """What `find` returns in process 0, in every process.

    Args:
      name: another one for every call.
      find: returns what JSON can hold.
    """
    if jax.process_count() == 1:
        return find()
    client, key = distributed.global_state.client, f"posetraj_jax/told/{name}"
    if is_writer():
        client.key_value_set(key, json.dumps(find()))
    return json.loads(client.blocking_key_value_get(key, TOLD_S * 1000))


def gathered(name: str, mine: Any) -> list[Any]:
    """What every process found, by its number; all come here together.

    Args:
      name: another one for every call.
      mine: what JSON can hold.
    """
    if jax.process_count() == 1:
        return [mine]
    client, folder = distributed.global_state.client, f"posetraj_jax/gathered/{name}"
    client.key_value_set(f"{folder}/{jax.process_index()}", json.dumps(mine))
    answers = (f"{folder}/{process}" for process in range(jax.process_count()))
    return [json.loads(client.blocking_key_value_get(key, TOLD_S * 1000)) for key in answers]


def require_same(what: str, mine: Mapping[str, Any], fix: str) -> None:
    """Refuses processes that would do different things; they would wait for ever, or mix them.

    Args:
      what: these are, such as "settings"; another name for every call.
      mine: of this process; JSON.
      fix: what a user does about a difference.

    Raises:
      UserError: this process's differ from process 0's, all named.
    """
    first = told(what, lambda: dict(mine))
    problems = [
        f"{name}: {mine.get(name)!r}, in process 0 {first.get(name)!r}"
        for name in sorted(mine.keys() | first.keys())
        if mine.get(name) != first.get(name)
    ]
    if problems:
        raise UserError(
            f"process {jax.process_index()} has other {what} than process 0",
            expected=f"the same {what} on all hosts",
            got=listed(problems),
            fix=fix,
        )


def _arguments(options: HostOptions) -> dict[str, Any] | None:
    """Of `jax.distributed.initialize`, as flags say; None where there is one process."""
    if options == HostOptions(num_processes=1):
        return None
    given = vars(options)
    problems = [f"no --{name}" for name, value in given.items() if value is None]
    if not problems:
        problems = _problems(options)
    if problems:
        raise UserError(
            "the flags for several hosts do not fit together",
            expected="--coordinator_address=HOST:PORT of process 0, --num_processes=N and "
            "--process_id from 0 to N - 1",
            got=listed(problems),
            fix="give all three on every host, or none; see docs/hosts.md",
        )
    if options.num_processes == 1:
        return None
    return given | {"cluster_detection_method": "deactivate"}


def _problems(options: HostOptions) -> list[str]:
    host, _, port = options.coordinator_address.rpartition(":")
    wrong = []
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        wrong.append(f"--coordinator_address={options.coordinator_address}")
    if not 0 <= options.process_id < options.num_processes:
        wrong.append(f"--num_processes={options.num_processes} --process_id={options.process_id}")
    return wrong


def _as_launched() -> dict[str, Any] | None:
    """The same as a launcher says that JAX knows; None where there is one process.

    JAX is asked, not told to connect: of a single process it would open a port, on which those of
    other runs on the same machine would be mistaken for its own.
    """
    try:
        address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, CONNECT_S
        )
    except OSError as error:  # a TPU without the metadata that those of pods have
        print(f"no metadata of a TPU pod, so this process is alone: {error}", file=sys.stderr)
        return None
    except RuntimeError as error:
        raise _not_met({}, str(error)) from error
    if address is None or count == 1:
        return None
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "local_device_ids": devices,
        "cluster_detection_method": "deactivate",
    }


def _connect(arguments: Mapping[str, Any]) -> None:
    """Meets the other processes."""
    if arguments["process_id"] == 0:
        _require_free_port(arguments)
    peers.on_abort(lambda: _not_met(arguments, "it waited in vain"))
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=CONNECT_S)
    except RuntimeError as error:
        raise _not_met(arguments, f"{error}".splitlines()[0]) from error
    peers.on_abort(lambda: None)


def _require_free_port(arguments: Mapping[str, Any]) -> None:
    """Refuses a port that is taken, with which JAX 0.10 crashes."""
    port = int(arguments["coordinator_address"].rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise _not_met(arguments, f"port {port} is not to be had: {error}") from error


def _not_met(arguments: Mapping[str, Any], got: str) -> UserError:
    where = arguments.get("coordinator_address", "that the launcher says")
    number = arguments.get("num_processes", "all")
    return UserError(
        "the processes of this run have not found each other",
        expected=f"{number} processes that start within {CONNECT_S} s, and reach process 0 at "
        f"the address {where}",
        got=f"process {arguments['process_id']}: {got}" if arguments else got,
        fix="start the command on every host, with another --process_id each; let the address be "
        "one that all hosts reach, and its port free; see docs/hosts.md",
    )


@contextmanager
def _without_stdout() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
