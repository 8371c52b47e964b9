"""Why grading doesn't use pebble's ProcessPool: how it behaves when workers are killed at random moments.

    pip install pebble && python tests/grading/pebble_under_kills.py

`test_killing_processes_loses_nothing` does the same to `lambda_grpo.grading.pool`.
"""

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import TimeoutError as FutureTimeoutError

from pebble import ProcessExpired, ProcessPool


def work(number):
    """About 2 ms of work."""
    start = time.perf_counter()
    while time.perf_counter() - start < 0.002:
        pass
    return number


def trial(seed):
    """The outcome of 2000 calls while 8 workers are killed, in a word: "ok" if at most single calls are lost."""
    pool = ProcessPool(max_workers=2, context=multiprocessing.get_context("forkserver"))
    futures = [pool.schedule(work, args=(i,), timeout=3) for i in range(2000)]
    futures[0].result()

    def kill():
        rng = random.Random(seed)
        for _ in range(8):
            time.sleep(rng.uniform(0.02, 0.3))
            workers = list(pool._pool_manager.worker_manager.workers)
            if workers:
                os.kill(rng.choice(workers), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    for future in futures:
        try:
            future.result(timeout=8)
        except ProcessExpired:
            continue
        except FutureTimeoutError:
            return "stalled"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "ok"


if __name__ == "__main__":
    print(dict(Counter(trial(seed) for seed in range(12))), flush=True)
    os._exit(0)  # a stalled pool doesn't end
