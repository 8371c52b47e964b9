"""Available memory, from files as Linux writes them."""

import pytest

from lambda_grpo.machine import available_memory

MIB = 2**20


def machine(root, files):
    for name, text in {
        "proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 1000 kB\nMemAvailable: 4194304 kB\n",
        **files,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(folder, limit, used, cached, version):
    names = {
        2: ("memory.max", "memory.current", f"anon 5\ninactive_file {cached}\n"),
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", f"inactive_file 5\ntotal_inactive_file {cached}\n"),
    }
    limit_name, usage_name, stat = names[version]
    return {
        f"{folder}/{limit_name}": f"{limit}\n",
        f"{folder}/{usage_name}": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


V1_LINES = "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n"
CASES = {
    "no control groups": ({}, 4096),
    "version 2, in a container": (
        {"proc/self/cgroup": "0::/\n", **group("sys/fs/cgroup", 2048 * MIB, 1024 * MIB, 512 * MIB, 2)}, 1536,
    ),
    "version 2, without a limit": (
        {"proc/self/cgroup": "0::/\n", **group("sys/fs/cgroup", "max", 1024 * MIB, 0, 2)}, 4096,
    ),
    "version 2, the outer group has less": (
        {
            "proc/self/cgroup": "0::/user.slice/job\n",
            **group("sys/fs/cgroup/user.slice/job", 3000 * MIB, 0, 0, 2),
            **group("sys/fs/cgroup/user.slice", 1000 * MIB, 400 * MIB, 0, 2),
        }, 600,
    ),
    "version 1": (
        {"proc/self/cgroup": V1_LINES, **group("sys/fs/cgroup/memory/job", 1000 * MIB, 900 * MIB, 100 * MIB, 1)}, 200,
    ),
    "version 1, in a container, with the host's path": (
        {"proc/self/cgroup": V1_LINES, **group("sys/fs/cgroup/memory", 1000 * MIB, 900 * MIB, 0, 1)}, 100,
    ),
    "version 1, whose number for no limit is huge": (
        {"proc/self/cgroup": V1_LINES, **group("sys/fs/cgroup/memory/job", 9223372036854771712, 900 * MIB, 0, 1)}, 4096,
    ),
    "more used than allowed": (
        {"proc/self/cgroup": "0::/\n", **group("sys/fs/cgroup", 100 * MIB, 101 * MIB, 0, 2)}, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_least_of_the_machine_and_its_groups(case, tmp_path):
    files, mib = CASES[case]
    assert available_memory(machine(tmp_path, files)) == mib * MIB


def test_this_machine():
    assert 0 < available_memory() < 2**50
