"""The supported version of verl, and the versions of trl that break it, known without importing verl."""

import re

VERL = "0.9.1"  # the version whose V1 loop the trainer extends
TRAINER = "lambda_grpo"  # the plug-in's name, and the value of trainer.v1.trainer_mode that selects it
FIRST_TRL_THAT_BREAKS_VERL = (1, 13)


def breaks_verl(trl: str) -> bool:
    """Whether verl's workers fail if this version of trl is installed.

    In every FSDP worker verl 0.9.1 imports `AutoModelForCausalLMWithValueHead` from trl if trl is installed; since 1.13
    trl doesn't have it.
    """
    return tuple(int(number) for number in re.findall(r"\d+", trl)[:2]) >= FIRST_TRL_THAT_BREAKS_VERL
