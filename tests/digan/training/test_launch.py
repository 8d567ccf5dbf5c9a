"""The place of a process in its launch, from the variables of launchers and of Slurm."""

import os

import pytest

from digan.errors import ConfigError
from digan.training.launch import Place, find_place, first_node, launch_identity

NAMES = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS SLURM_PROCID SLURM_NTASKS "
NAMES += "SLURM_STEP_NUM_TASKS SLURM_STEP_ID SLURM_JOB_ID TORCHELASTIC_RUN_ID TORCHELASTIC_RESTART_COUNT "
NAMES += "TORCHELASTIC_USE_AGENT_STORE SLURM_LOCALID SLURM_STEP_NODELIST SLURM_STEP_NUM_NODES"


@pytest.fixture
def place(monkeypatch):
    """Finds the place that variables give."""

    def find(**variables):
        for name in NAMES.split():
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return find_place()

    return find


def test_a_process_without_variables_is_alone(place):
    assert place() == Place()
    assert place(SLURM_PROCID="0", SLURM_NTASKS="4") == Place()  # a batch script before srun


def test_the_variables_of_a_launcher(place):
    launched = dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="a", MASTER_PORT="5")
    assert place(**launched) == Place(1, 2, "a", 5)
    assert place(**{**launched, "RANK": "0"}).hosts_store
    agent = dict(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="2")
    assert place(**{**launched, "RANK": "0"}, **agent) == Place(0, 2, "a", 5, hosts_store=False, attempt=2)


def test_a_task_of_srun(place):
    step = dict(SLURM_PROCID="3", SLURM_STEP_NUM_TASKS="4", SLURM_LOCALID="1", SLURM_STEP_NODELIST="gpu[07-08]")
    found = place(**step, SLURM_STEP_NUM_NODES="2", SLURM_JOB_ID="12")
    assert found == Place(3, 4, "gpu07", 20012)
    assert (os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]) == ("1", "2")
    assert place(SLURM_PROCID="1", SLURM_NTASKS="2", MASTER_ADDR="a", MASTER_PORT="7") == Place(1, 2, "a", 7)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("gpu[03-05,9],cpu1", "gpu03"), ("n[1,4]-x", "n1-x"), ("n-1", "n-1")],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_node(nodes) == first


def test_several_machines_need_an_address(place):
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        place(RANK="1", WORLD_SIZE="4", LOCAL_RANK="0", LOCAL_WORLD_SIZE="2")


def test_a_launch_keeps_its_name_when_processes_are_restarted():
    assert launch_identity({}) is None
    assert launch_identity({"TORCHELASTIC_RUN_ID": "7"}) == "job 7"
    unnamed = launch_identity({"TORCHELASTIC_RUN_ID": "none"})
    assert unnamed == launch_identity({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "1"})
    assert unnamed.startswith("launcher ")
