"""Problems and hints, each with its fix."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from lambda_grpo.doctor.packages import ENGINES, PARTS, Facts
from lambda_grpo.doctor.requirements import version_of
from lambda_grpo.verl.versions import VERL

PLUGIN_FIXES = {  # by the state of the plug-in
    "switched off": "unset the variable, or add lambda_grpo to it",
    "no entry point": "install lambda-grpo again here (in a checkout: pip install --no-deps -e .)",
    "fails": "fix that, or install again: pip install 'lambda-grpo[verl]'",
}


def blocking(name: str, unmet: list[Facts]) -> list[Facts]:
    """The unmet requirements without which an engine can't work."""
    return [one for one in unmet if one["installed"] or ENGINES[name].missing_is_fatal]


def describe_unmet(unmet: list[Facts]) -> str:
    """Unmet requirements in words."""
    wrong = [one for one in unmet if one["installed"]]
    words = [f"{one['package']} {one['installed']}, but {one['named_by']} needs {one['needs']}" for one in wrong]
    return "; ".join(words + [f"{one['package']} isn't installed" for one in unmet if not one["installed"]])


def problems(facts: Facts) -> Iterator[tuple[str, str]]:
    """What is installed but can't work, each with its fix."""
    torch, plugin = facts["torch"], facts["plugin"]
    trl, verl = (facts["engines"][name]["installed"] for name in ("trl", "verl"))
    if torch["unmet"]:
        yield describe_unmet(torch["unmet"]), f"pip install 'torch{torch['unmet'][0]['needs']}'"
    elif torch["error"]:
        yield f"torch fails: {torch['error']}", "install the build of torch for this machine"
    if not trl and not verl:
        one, cluster = (f"pip install 'lambda-grpo[{name}]' for {ENGINES[name].purpose}" for name in ("trl", "verl"))
        yield "no engine is installed", f"{one}, or {cluster}"
    if facts["conflict"]:
        what = f"trl {trl} is installed beside verl {verl}, whose FSDP workers fail with trl 1.13 or newer"
        yield what, "pip uninstall trl, or keep one of the two in a second virtual environment"
    for name, engine in facts["engines"].items():
        if name == "trl" and verl:
            continue  # an older trl is a requirement of verl; a newer one is the conflict above
        if unmet := blocking(name, engine["unmet"]):
            yield describe_unmet(unmet), f"pip install 'lambda-grpo[{name}]'"
        elif engine["error"]:
            what = f"{ENGINES[name].name} can't be imported: {engine['error']}"
            yield what, f"pip install 'lambda-grpo[{name}]', or fix what it names"
    if plugin["state"] in PLUGIN_FIXES:
        yield f"verl doesn't have the plug-in, {plugin['state']}: {plugin['why']}", PLUGIN_FIXES[plugin["state"]]
    for name, part in facts["parts"].items():
        if part["state"] == "broken":
            package = PARTS[name].package
            yield f"{package} can't be imported: {part['error']}", f"pip install --force-reinstall --no-deps {package}"


def hints(facts: Facts) -> Iterator[tuple[str, str]]:
    """What works but could be better, each with its fix."""
    verl, devices = facts["engines"]["verl"], facts["devices"]
    if not facts["requirements_checked"]:
        lacking, do = (
            ("packaging", "pip install packaging") if version_of("lambda-grpo") else ("lambda-grpo", "install it")
        )
        yield f"versions can't be checked, since {lacking} isn't installed", do
    if verl["state"] == "ready" and (missing := verl["unmet"]):
        yield f"verl can be imported, but {describe_unmet(missing)}", "pip install 'lambda-grpo[verl]'"
    if verl["state"] == "ready" and not any(version_of(name) for name in ("vllm", "sglang", "tensorrt-llm")):
        yield (
            "verl samples with vLLM, SGLang or TensorRT-LLM, but none is installed",
            f"pip install 'verl[vllm]=={VERL}'",
        )
    if verl["state"] == "ready" and devices.get("gpus") and not version_of("flash-attn"):
        do = f"pip install 'verl[flash-attn-cu130torch211]=={VERL}', or another build for your CUDA"
        yield "verl's use_remove_padding needs flash-attn on NVIDIA GPUs, but it isn't installed", do
    if shutil.which("nvidia-smi") and "gpus" in devices and devices["built_for"] is None:
        yield "there is an NVIDIA driver, but torch is built without CUDA", "install a CUDA build of torch"
