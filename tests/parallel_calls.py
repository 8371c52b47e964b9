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


class Unreadable:
    def __reduce__(self):
        return fail, ("I can't be read",)


def give_unreadable():
    return Unreadable()


def kill_with_a_child():
    """The child holds what this process had open."""
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    kill()


def sleep_a_little():
    start = time.time()
    time.sleep(1.0)
    return start, time.time()


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


def sleep(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
