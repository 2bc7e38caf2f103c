"""How the processes of a run find each other, and what a single one makes of all this: nothing."""

import argparse

import pytest

from posetraj_jax import hosts
from posetraj_jax.errors import UserError
from posetraj_jax.hosts import HostOptions

LAUNCHERS = [name for name in (*hosts.CLUSTERS, *hosts.CLUSTERS.values()) if name]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher and no TPU, wherever these tests run; and no process waits for another."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hosts, "TPU_DEVICES", ())
    monkeypatch.setattr(hosts, "_connect", lambda arguments: pytest.fail(f"connects: {arguments}"))


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


@pytest.mark.parametrize(
    ("variables", "asks"),
    [
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_a_launcher_of_several_processes_is_recognised(monkeypatch, variables, asks):
    """JAX then reads the launcher's variables; a single task must not wait for a port."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    connected = []
    monkeypatch.setattr(hosts, "_connect", lambda arguments: connected.append(arguments))
    assert joined(HostOptions())
    assert connected == ([{}] if asks else [])
    assert joined(HostOptions(num_processes=1))
    assert len(connected) == asks


def test_a_tpu_may_be_a_part_of_a_pod(monkeypatch, tmp_path):
    monkeypatch.setattr(hosts, "TPU_DEVICES", (str(tmp_path),))
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    connected = []
    monkeypatch.setattr(hosts, "_connect", lambda arguments: connected.append(arguments))
    for platforms in ("cpu", "tpu,cpu", ""):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        assert joined(HostOptions())
    assert connected == [{}, {}]
