"""The facts as text, on one screen."""

from __future__ import annotations

import os
import textwrap
from collections import Counter

from lambda_grpo.doctor.advice import describe_unmet
from lambda_grpo.doctor.packages import ENGINES, PARTS, Facts
from lambda_grpo.verl.versions import TRAINER

WIDTH = 90


def describe(facts: Facts) -> str:
    """The facts as text, on one screen."""
    engines, plugin = facts["engines"], facts["plugin"]
    versions = f"torch {facts['torch']['installed']}, Python {facts['python']}, {facts['platform']}"
    to_do = [
        f"{_filled(item['what'], '  - ', 4)}\n{_filled(item['do'], '    Do: ', 8)}"
        for item in facts["problems"] + facts["hints"]
    ]
    sections = {
        "Engines": [_engine_row(name, engines) for name in engines],
        "Plug-in": [_row("verl", plugin["state"], plugin["why"] or f"trainer {TRAINER}")],
        "Parts": [_part_row(name, part) for name, part in facts["parts"].items()],
        "Devices": _device_rows(facts["devices"]),
        "To do": to_do or ["  nothing: everything that is installed works"],
    }
    body = ["\n".join([title, *rows]) for title, rows in sections.items()]
    return "\n\n".join([f"lambda-grpo {facts['lambda_grpo']}, {versions}", *body])


def _engine_row(name: str, engines: Facts) -> str:
    engine = engines[name]
    text = ", ".join(f"{package} {version}" for package, version in engine["versions"].items() if version)
    if not engine["installed"]:
        beside = "".join(f", not beside {ENGINES[other].name}" for other in engines if engines[other]["installed"])
        text = f"{ENGINES[name].purpose}{beside}: pip install 'lambda-grpo[{name}]'"
    return _row(ENGINES[name].name, engine["state"], text)


def _part_row(name: str, part: Facts) -> str:
    text = f"{PARTS[name].package} {part['installed']}"
    if not part["installed"]:
        text = f"{PARTS[name].purpose}: {part['install']}"
    elif part["unmet"]:
        text = f"{describe_unmet(part['unmet'])}: {part['install']}"
    return _row(name, part["state"], text)


def _device_rows(devices: Facts) -> list[str]:
    cpu = _row("CPU", f"{devices['cpu_cores']} cores", "for this process")
    if "gpus" not in devices:
        return [_row("GPU", "not known", "torch fails"), cpu]
    kinds = Counter(f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in devices["gpus"])
    if kinds:
        text = "; ".join(f"{n} × {kind}" for kind, n in kinds.items()) + f" ({devices['built_for']})"
    elif devices["mps"]:
        text = "Apple's, through MPS"
    else:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        text = f"torch, built for {devices['built_for'] or 'CPUs alone'}, sees none"
        text += "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
        text += f": {devices['warning']}" if devices["warning"] else ""
    error = devices["compiled_error"]
    compiled = f"PyTorch is used instead, which is slower: {error}" if error else f"by {devices['compiler']}"
    state = str(kinds.total() or ("1" if devices["mps"] else "none"))
    return [_row("GPU", state, text), cpu, _row("C for CPUs", "not compiled" if error else "compiled", compiled)]


def _row(name: str, state: str, text: str) -> str:
    return _filled(text, f"  {name:<12}{state:<15}", 29)


def _filled(text: str, start: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * indent, break_on_hyphens=False)
