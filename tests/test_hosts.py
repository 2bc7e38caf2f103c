"""How the processes of a run find each other, and what a single one makes of all this: nothing."""

import argparse
import os
import socket

import jax
import pytest
from jax._src.clusters import cloud_tpu_cluster

from posetraj_jax import hosts
from posetraj_jax.errors import UserError
from posetraj_jax.hosts import HostOptions

LAUNCHERS = ("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_COORDINATOR_")
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[007-009]",
    "SLURM_NTASKS": "24",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
POD = {
    "TPU_WORKER_HOSTNAMES": "127.0.0.1,127.0.0.2",
    "TPU_WORKER_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "",
    "MEGASCALE_NUM_SLICES": "",
    "MEGASCALE_SLICE_ID": "",
}


@pytest.fixture(autouse=True)
def connected(monkeypatch):
    """With what a process connects to others; no launcher and no TPU, wherever these tests run."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", False)
    found = []

    def connect(arguments):
        found.append(arguments)
        raise MetOthersError

    monkeypatch.setattr(hosts, "_connect", connect)
    return found


class MetOthersError(Exception):
    """Ends a test where a process would wait for others."""


def joined(options: HostOptions) -> bool:
    with hosts.joined(options):
        return True


@pytest.mark.parametrize(
    "options", [HostOptions(), HostOptions(num_processes=1), HostOptions("h:1", 1, 0)]
)
def test_one_process_connects_to_nobody(options):
    assert joined(options)
    assert hosts.is_writer()
    assert hosts.told("x", lambda: 3) == 3
    assert hosts.gathered("x", 3) == [3]


@pytest.mark.parametrize(
    ("options", "got"),
    [
        (HostOptions("h:1", 2), ["no --process_id"]),
        (HostOptions(process_id=1), ["no --coordinator_address", "no --num_processes"]),
        (HostOptions("h:1", 2, 2), ["--num_processes=2 --process_id=2"]),
        (HostOptions("h:1", 2, -1), ["--process_id=-1"]),
        (HostOptions("h:1", 1, 1), ["--num_processes=1 --process_id=1"]),
        (HostOptions("h:1", 0, 0), ["--num_processes=0"]),
        (HostOptions("h", 2, 0), ["--coordinator_address=h"]),
        (HostOptions(":1", 2, 0), ["--coordinator_address=:1"]),
        (HostOptions("h:0", 2, 0), ["--coordinator_address=h:0"]),
        (HostOptions("h:65536", 2, 5), ["--coordinator_address=h:65536", "--process_id=5"]),
        (HostOptions("h:²", 2, 0), ["--coordinator_address=h:²"]),
    ],
)
def test_flags_that_do_not_fit_together_are_all_named(options, got):
    with pytest.raises(UserError, match="flags for several hosts") as caught:
        joined(options)
    for problem in got:
        assert problem in caught.value.got
    assert "--process_id from 0 to N - 1" in caught.value.expected


def test_flags_are_read_from_a_command_line():
    parser = argparse.ArgumentParser()
    hosts.add_arguments(parser)
    assert HostOptions.of(parser.parse_args([])) == HostOptions()
    flags = ["--coordinator_address=h:1", "--num_processes=2", "--process_id=1"]
    assert HostOptions.of(parser.parse_args(flags)) == HostOptions("h:1", 2, 1)


def launched(monkeypatch, variables, connected):
    """What a launcher's variables say."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MetOthersError):
        joined(HostOptions())
    found = connected.pop()
    return found["coordinator_address"], found["num_processes"], found["process_id"]


def test_slurm_says_who_takes_part(monkeypatch, connected):
    assert launched(monkeypatch, SLURM, connected) == ("node007:61441", 24, 9)


def test_open_mpi_says_who_takes_part(monkeypatch, connected):
    assert launched(monkeypatch, OPEN_MPI, connected) == ("10.0.0.1:61441", 4, 2)


def test_a_tpu_pod_says_who_takes_part(monkeypatch, connected):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    assert launched(monkeypatch, POD, connected) == ("127.0.0.1:8482", 2, 1)


def test_a_single_task_needs_no_port(monkeypatch):
    """Two of them in one SLURM job would get the same one."""
    for name, value in (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    assert joined(HostOptions())


def test_a_process_may_stay_alone_whatever_a_launcher_says(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert joined(HostOptions(num_processes=1))


def test_a_tpu_without_metadata_of_a_pod_says_that_it_is_alone(monkeypatch, capsys):
    def refused(key):
        raise ConnectionError("no metadata server")

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", refused)
    assert joined(HostOptions())
    assert "so this process is alone: no metadata server" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(monkeypatch):
    """JAX crashes there."""
    monkeypatch.undo()  # of `connected`
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("crashes"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match="have not found each other") as caught:
            joined(HostOptions(address, 2, 0))
    assert f"port {address[10:]} is not to be had" in caught.value.got
    assert address in caught.value.expected
