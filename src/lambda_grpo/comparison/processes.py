"""How many runs of a study are made at the same time, and with how many threads each."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from lambda_grpo.comparison.study import Study
from lambda_grpo.errors import UserError
from lambda_grpo.formatting import byte_size
from lambda_grpo.machine import available_memory
from lambda_grpo.training.footprint import Footprint, footprint
from lambda_grpo.training.recipe import Recipe

# A smaller model's matrices are too small to be shared by threads: they only wait for each other.
MIN_PARAMETERS_FOR_THREADS = 10_000_000


@dataclass(frozen=True)
class Plan:
    """So many processes at the same time, so many threads in each.

    reason: why, in a line.
    warning: a line if the memory is likely not to do.
    """

    processes: int
    threads: int
    reason: str
    warning: str | None = None

    def __str__(self) -> str:
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{processes} × {threads}; {self.reason}"


def study_footprint(study: Study) -> Footprint | None:
    """What the run of a study that needs most memory needs; None if the model's size isn't known."""
    found = []
    for arm in study.arms:
        keys = study.recipe_keys(arm, study.tasks[0], study.learning_rates[0], study.seeds[0])
        with suppress(UserError):  # `check_arms` reports it with the arm's name
            found.append(footprint(Recipe.parse({**keys, "output_dir": "unused"})))
    return max((one for one in found if one is not None), key=lambda one: one.memory, default=None)


def study_memory(study: Study) -> int:
    """Bytes of memory that a study's runs can use: the accelerator's, if they train on one that tells."""
    import torch

    settings = Recipe.parse({**study.keys, "output_dir": "unused"}).training
    if not settings.use_cpu and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return available_memory()


def choose_processes(
    needed: Footprint | None, *, cores: int, memory: int, runs: int, processes: int | None = None
) -> Plan:
    """Choose the numbers of processes and threads.

    A small model gets a process for each core with one thread, as far as the memory goes. A larger one gets no more
    processes than there are runs, and the cores that are left over go to threads.

    Args:
        needed: of one run; None if it isn't known.
        cores: of the CPU.
        memory: available bytes.
        runs: most runs that could be made at the same time.
        processes: what the user has chosen.
    """
    given = "as given" if processes is not None else None
    if needed is None:
        known = "the model's size isn't known, so memory isn't considered"
        return Plan(processes or cores, 1, "; ".join(filter(None, (given, known))))
    fitting = memory // needed.memory
    is_large = needed.parameters >= MIN_PARAMETERS_FOR_THREADS
    if processes is None:
        processes = max(1, min(cores, fitting, runs if is_large else cores))
    threads = max(1, cores // processes) if is_large else 1
    estimate = f"a run needs about {byte_size(needed.memory)} of memory, {byte_size(memory)} are available"
    reason = f"{estimate}, for {cores} {'core' if cores == 1 else 'cores'}"
    warning = None
    if processes > fitting:
        at_once = "one run" if processes == 1 else f"{processes} runs at the same time"
        fewer = "" if processes == 1 else "fewer --processes, "
        warning = (
            f"{at_once} may not fit into the memory, by an estimate ({estimate}): choose {fewer}a smaller "
            "per_device_train_batch_size or max_completion_length, gradient_checkpointing, use_peft or a smaller model"
        )
    return Plan(processes, threads, "; ".join(filter(None, (given, reason))), warning)
