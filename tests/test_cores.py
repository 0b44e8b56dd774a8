"""How many cores and how much memory a run uses: what its job or container may, not what the machine has."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from cl.config.data import DataConfig
from cl.machine import cgroups, cores
from cl.machine.cgroups import cpu_quota, memory_left
from cl.machine.cores import usable_cores
from cl.run.start import devices, processes
from tests.conftest import ROOT, TINY, Run

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretend a machine of 128 cores with control groups in `tmp_path`."""

    def pretend(affinity: int = 128, group: str = "", mounts: str = "", files: Mapping[str, str] = {}) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 128)
        monkeypatch.setattr(cgroups, "PROC", tmp_path)
        for name in ("SLURM_CPUS_PER_TASK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "cgroup").write_text(group)
        (tmp_path / "mountinfo").write_text(mounts.replace("TREE", str(tmp_path)))
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return pretend


V2 = "30 23 0:26 / TREE rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / TREE/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / TREE/memory rw,relatime - cgroup cgroup rw,memory\n"
)
V1_GROUPS = "5:cpu,cpuacct:/job/step\n4:memory:/job/step\n0::/elsewhere\n"
QUOTAS = {  # the group, the mounts, the files, the cores
    "v2, a container's own tree": ("0::/\n", V2, {"cpu.max": "200000 100000\n"}, 2),
    "v2, no limit": ("0::/\n", V2, {"cpu.max": "max 100000\n"}, 128),
    "v2, a limit above": ("0::/job/step\n", V2, {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
    "v2, the smallest": ("0::/job/step\n", V2, {"job/cpu.max": "300000 100000", "job/step/cpu.max": "50000 25000"}, 2),
    "v2, half a core": ("0::/\n", V2, {"cpu.max": "50000 100000\n"}, 1),
    "v2, two and a half": ("0::/\n", V2, {"cpu.max": "250000 100000\n"}, 2),
    "v2, only a part of the tree is mounted": (
        "0::/docker/abc/inner\n",
        V2.replace(" / ", " /docker/abc "),
        {"inner/cpu.max": "400000 100000"},
        4,
    ),
    "v2, a group outside of the mounted part": ("0::/../other\n", V2, {"cpu.max": "500000 100000"}, 5),
    "v1": (V1_GROUPS, V1, {"cpu/job/step/cpu.cfs_quota_us": "150000", "cpu/job/step/cpu.cfs_period_us": "50000"}, 3),
    "v1, a limit above": (
        V1_GROUPS,
        V1,
        {
            "cpu/job/cpu.cfs_quota_us": "200000",
            "cpu/job/cpu.cfs_period_us": "100000",
            "cpu/job/step/cpu.cfs_quota_us": "-1",
            "cpu/job/step/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "damaged": ("0\n\n::\n", "30\n - \n" + V2, {"cpu.max": "\n"}, 128),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_of_any_control_group_limits_the_cores(case: str, machine: Machine) -> None:
    group, mounts, files, expected = QUOTAS[case]
    machine(group=group, mounts=mounts, files=files)
    assert usable_cores() == expected


def test_the_affinity_and_slurms_cores_per_task_limit_the_cores(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(affinity=6)
    assert usable_cores() == 6
    for value, expected in (("4", 4), ("8", 6), ("0", 6), ("", 6), ("many", 6)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", value)
        assert usable_cores() == expected


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "PROC", tmp_path / "nothing")
    assert (cpu_quota(), memory_left()) == (None, None)


def test_workers_threads_and_ranks_are_counted_in_usable_cores(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(group="0::/\n", mounts=V2, files={"cpu.max": "400000 100000"})
    assert DataConfig().workers() == 3
    environments = processes.rank_environments(2)
    assert [environment["OMP_NUM_THREADS"] for environment in environments] == ["2", "2"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", environments[0]["LOCAL_WORLD_SIZE"])
    assert DataConfig().workers() == 1
    machine(group="0::/\n", mounts=V2, files={"cpu.max": "100000 100000"})
    assert DataConfig().workers() == 0


@pytest.mark.parametrize(("chosen", "expected"), [("", 2), ("5", 5)])
def test_a_single_process_has_at_most_as_many_threads_as_usable_cores(
    chosen: str, expected: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(group="0::/\n", mounts=V2, files={"cpu.max": "200000 100000"})
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        devices.limit_threads()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_the_banner_warns_of_more_workers_than_usable_cores(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: 1.0)
    flags = ["digits", "resnet18", *TINY, "--dry_run", "--num_workers", "2", "--accelerator", "cpu"]
    code, out, err = run("main_contrastive.py", *flags)
    assert (code, err) == (0, "")
    assert "--num_workers 2 on 1 cores: loader processes will compete for cores" in out


def test_the_memory_of_v1_groups_counts_as_well(machine: Machine) -> None:
    limits = {"memory/job/step/memory.limit_in_bytes": str(2**63 - 4096), "memory/job/memory.limit_in_bytes": "5000"}
    used = {"memory/job/step/memory.usage_in_bytes": "10", "memory/job/memory.usage_in_bytes": "4000"}
    cached = {"memory/job/memory.stat": "cache 900\ninactive_file 10\ntotal_inactive_file 700\n"}
    machine(group=V1_GROUPS, mounts=V1, files=limits | used | cached)
    assert memory_left() == 1700


def test_nothing_counts_the_cores_of_the_machine_itself() -> None:
    folders = [ROOT / name for name in ("cl", "bench", "bash_files")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".sh", ".sbatch")]
    users = {str(path.relative_to(ROOT)) for path in files if "cpu_count" in path.read_text()}
    assert users == {"cl/machine/cores.py"}
    assert not [path for path in files if "nproc)" in path.read_text()]
