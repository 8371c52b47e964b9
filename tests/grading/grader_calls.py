"""Functions that worker processes call in the tests of the pool."""

import os
import signal
import time


def double(x):
    return 2 * x


def double_slowly(x):
    time.sleep(0.02)
    return 2 * x


def doze(seconds):
    time.sleep(seconds)
    return seconds


def power(base, exponent):
    """Stays in C code, where no exception reaches it."""
    return len(str(base**exponent)) if exponent < 100 else (base**exponent) % 2


def allocate(gibibytes):
    return len(bytes(gibibytes * 2**30))


def fail(x):
    raise ZeroDivisionError(f"no verdict on {x}")


def die(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * x


def fail_on_seven(completion, answer):
    if "7" in completion:
        raise KeyError("seven")
    from lambda_grpo.grading.judge import judge

    return judge(completion, answer)
