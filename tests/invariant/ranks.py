"""Several processes of this machine: by torchrun, as a user starts them, or forked after the imports."""

import importlib
import os
import subprocess
import sys

import torch

from lambda_grpo.parallel import Call, run_all


def torchrun(processes, script, *arguments, folder="invariant"):
    """Run a script of the tests on so many processes."""
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
            "-m", f"tests.{folder}.{script}", *map(str, arguments),
        ],
        check=True,
        timeout=900,
    )  # fmt: skip


def fork_ranks(processes, script, out, *arguments):
    """The same in a fraction of the time: with the environment of torchrun, but forked after the imports.

    out: the script's first argument, and the folder for what each process prints.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    calls = [
        Call(
            "tests.invariant.ranks:run_rank",
            (rank, processes, store.port, script, str(out), *map(str, arguments)),
            out / f"rank{rank}.txt",
        )
        for rank in range(processes)
    ]
    for outcome in run_all(calls, preload="lambda_grpo.training.preload", processes=processes):
        assert outcome.failure is None, calls[outcome.index].output.read_text()


def run_rank(rank, processes, port, script, *arguments):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0",  # the store is the parent's
    )  # fmt: skip
    importlib.import_module(f"tests.invariant.{script}").main(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
