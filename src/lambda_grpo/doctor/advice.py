"""What can't work as it is, what could be better, and the way out of each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from lambda_grpo.doctor.parts import ENGINES, PARTS, Facts
from lambda_grpo.doctor.requirements import version_of
from lambda_grpo.verl.versions import VERL

MENDS = {  # by the state of the plug-in
    "switched off": "unset the variable, or add lambda_grpo to it",
    "no entry point": "install lambda-grpo again here (in a checkout: pip install --no-deps -e .)",
    "fails": "mend that, or install again: pip install 'lambda-grpo[verl]'",
}


def in_the_way(name: str, unmet: list[Facts]) -> list[Facts]:
    """The unmet requirements that an engine can't do without."""
    return [row for row in unmet if row["installed"] or ENGINES[name].missing_is_fatal]


def shortfall(rows: list[Facts]) -> str:
    """Unmet requirements in words."""
    wrong = [row for row in rows if row["installed"]]
    words = [f"{row['package']} {row['installed']}, but {row['named_by']} needs {row['needs']}" for row in wrong]
    return "; ".join(words + [f"{row['package']} isn't installed" for row in rows if not row["installed"]])


def problems(facts: Facts) -> Iterator[tuple[str, str]]:
    """What is installed and can't work, each with the way out."""
    torch, plugin = facts["torch"], facts["plugin"]
    trl, verl = (facts["engines"][name]["installed"] for name in ("trl", "verl"))
    if torch["unmet"]:
        yield shortfall(torch["unmet"]), f"pip install 'torch{torch['unmet'][0]['needs']}'"
    elif torch["error"]:
        yield f"torch fails: {torch['error']}", "install the build of torch for this machine"
    if not trl and not verl:
        one, cluster = (f"pip install 'lambda-grpo[{name}]' for {ENGINES[name].purpose}" for name in ("trl", "verl"))
        yield "no engine is installed", f"{one}, or {cluster}"
    if facts["conflict"]:
        what = f"trl {trl} is beside verl {verl}, whose FSDP workers fail wherever they find trl 1.13 or newer"
        yield what, "pip uninstall trl, or keep one of the two in a second virtual environment"
    for name, engine in facts["engines"].items():
        if name == "trl" and verl:
            continue  # an older trl is there for verl's sake; of a newer one, all is said above
        if rows := in_the_way(name, engine["unmet"]):
            yield shortfall(rows), f"pip install 'lambda-grpo[{name}]'"
        elif engine["error"]:
            what = f"{ENGINES[name].name} can't be imported: {engine['error']}"
            yield what, f"pip install 'lambda-grpo[{name}]', or mend what it names"
    if plugin["state"] in MENDS:
        yield f"verl doesn't have the plug-in, {plugin['state']}: {plugin['why']}", MENDS[plugin["state"]]
    for name, part in facts["parts"].items():
        if part["state"] == "broken":
            package = PARTS[name].package
            yield f"{package} can't be imported: {part['error']}", f"pip install --force-reinstall --no-deps {package}"


def hints(facts: Facts) -> Iterator[tuple[str, str]]:
    """What works and could be better, each with how."""
    verl, devices = facts["engines"]["verl"], facts["devices"]
    if not facts["requirements_checked"]:
        lacking, do = (
            ("packaging", "pip install packaging") if version_of("lambda-grpo") else ("lambda-grpo", "install it")
        )
        yield f"versions are compared with nothing, as {lacking} isn't installed", do
    if verl["state"] == "ready" and (missing := verl["unmet"]):
        yield f"verl can be imported, but {shortfall(missing)}", "pip install 'lambda-grpo[verl]'"
    if verl["state"] == "ready" and not any(version_of(name) for name in ("vllm", "sglang", "tensorrt-llm")):
        yield (
            "verl samples with vLLM, SGLang or TensorRT-LLM, and none is installed",
            f"pip install 'verl[vllm]=={VERL}'",
        )
    if verl["state"] == "ready" and devices.get("gpus") and not version_of("flash-attn"):
        do = f"pip install 'verl[flash-attn-cu130torch211]=={VERL}', or another build for your CUDA"
        yield "verl's use_remove_padding takes flash-attn on NVIDIA GPUs, and it isn't installed", do
    if shutil.which("nvidia-smi") and "gpus" in devices and devices["built_for"] is None:
        yield "there is an NVIDIA driver, but torch is built without CUDA", "install a CUDA build of it"
