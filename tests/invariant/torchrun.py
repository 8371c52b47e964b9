import socket
import subprocess
import sys


def torchrun(processes, script, *arguments, folder="invariant"):
    """Run a script of the tests on so many processes of this machine."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}",
            f"--master_port={port}", "-m", f"tests.{folder}.{script}", *map(str, arguments),
        ],
        check=True,
    )  # fmt: skip
