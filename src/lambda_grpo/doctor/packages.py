"""What the doctor checks: the engines, and optional packages."""

from __future__ import annotations

from typing import Any, NamedTuple

PLUGIN = "lambda_grpo.verl.plugin"

Facts = dict[str, Any]


class Engine(NamedTuple):
    """A training engine: its name, its purpose, and the packages whose versions are shown."""

    name: str
    purpose: str
    versions: tuple[str, ...]
    missing_is_fatal: bool  # not for verl, whose requirements include tools that few runs need


class Part(NamedTuple):
    """An optional part: its package, its module, its purpose, and what to install for it."""

    package: str
    module: str
    purpose: str
    sources: tuple[str, ...]  # the first one whose engine is installed counts; without any, the part isn't shown


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
