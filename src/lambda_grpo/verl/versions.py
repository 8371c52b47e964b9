"""Which versions of verl and trl go together, known without importing verl."""

import re

VERL = "0.9.1"  # whose V1 loop the trainer builds on
TRAINER = "lambda_grpo"  # the plug-in's name, and what trainer.v1.trainer_mode selects
FIRST_TRL_THAT_BREAKS_VERL = (1, 13)


def breaks_verl(trl: str) -> bool:
    """Whether verl's workers fail beside this version of trl.

    verl 0.9.1 imports `AutoModelForCausalLMWithValueHead` from any trl that is there, in every FSDP worker; trl has
    none since 1.13.
    """
    return tuple(int(number) for number in re.findall(r"\d+", trl)[:2]) >= FIRST_TRL_THAT_BREAKS_VERL
