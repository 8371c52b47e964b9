"""What the doctor looks at: the engines, and what goes with them."""

from __future__ import annotations

from typing import Any, NamedTuple

PLUGIN = "lambda_grpo.verl.plugin"

Facts = dict[str, Any]


class Engine(NamedTuple):
    """What trains: its name, what it is for, and the packages whose versions are worth a look."""

    name: str
    purpose: str
    versions: tuple[str, ...]
    missing_is_fatal: bool  # verl's list has tools that few runs need: there the import decides


class Part(NamedTuple):
    """What isn't an engine: its main package, the module of it, what it is for, and what pip is to install for it."""

    package: str
    module: str
    purpose: str
    sources: tuple[str, ...]  # the first whose engine is installed; without one, the part isn't shown


ENGINES = {
    "trl": Engine("TRL", "one machine", ("trl", "transformers", "accelerate", "peft"), True),
    "verl": Engine("verl", "a cluster", ("verl", "ray", "transformers", "tensordict"), False),
}
PARTS = {
    "report": Part("matplotlib", "matplotlib", "for train, compare and report", ("lambda-grpo[report]",)),
    "eval": Part("math-verify", "math_verify", "grades maths, also for eval", ("lambda-grpo[eval]",)),
    "gym": Part("reasoning-gym", "reasoning_gym", "reasoning-gym's data sets", ("lambda-grpo[gym]",)),
    "vllm": Part("vllm", "vllm", "samples on GPUs", ("verl[vllm]", "trl[vllm]")),
    "sglang": Part("sglang", "sglang", "samples on GPUs", ("verl[sglang]",)),
    "deepspeed": Part("deepspeed", "deepspeed", "ZeRO on several GPUs", ("trl[deepspeed]",)),
    "flash-attn": Part("flash-attn", "flash_attn", "attention on NVIDIA GPUs", ("flash-attn --no-build-isolation",)),
}
