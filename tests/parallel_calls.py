"""What tests/test_parallel.py calls in other processes."""

import os
import signal
import time

import torch

seen = []


def double(x):
    print("doubling", x)
    seen.append(x)
    return 2 * x, len(seen), torch.get_num_threads(), os.getpid()


def fail(message):
    raise ValueError(message)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


def sleep(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
