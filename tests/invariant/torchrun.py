"""Several processes of this machine, as a user starts them."""

import subprocess
import sys


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
