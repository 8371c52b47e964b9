"""Collects the facts about an environment: versions, engines, devices."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from lambda_grpo import __version__
from lambda_grpo.doctor.advice import blocking, hints, problems
from lambda_grpo.doctor.packages import ENGINES, PARTS, PLUGIN, Facts, Part
from lambda_grpo.doctor.probe import run_probe
from lambda_grpo.doctor.requirements import can_check, unmet_of, version_of
from lambda_grpo.parallel import cores
from lambda_grpo.verl.versions import TRAINER, breaks_verl


def examine() -> Facts:
    """All facts, with `problems`, which can't work as they are, and `hints`, which could be better."""
    versions = {name: version_of(name) for name in ENGINES}
    unmet = {name: unmet_of("lambda-grpo", name) if versions[name] else [] for name in ENGINES}
    wrong = {name for name in ENGINES if any(one["package"] == name for one in unmet[name])}
    sources = {name: _source(part, versions) for name, part in PARTS.items()}
    shown = {name: part for name, part in PARTS.items() if sources[name]}
    probes = ["devices", *(part.module for part in shown.values() if version_of(part.package))]
    probes += [name for name in ENGINES if versions[name] and name not in wrong]
    with ThreadPoolExecutor(min(4, cores())) as pool:
        found = dict(zip(probes, pool.map(run_probe, probes), strict=True))
    torch_error = found["devices"].pop("error", None)
    errors = {name: finding.get("error") for name, finding in found.items()}
    conflict = versions["verl"] is not None and breaks_verl(versions["trl"] or "")
    facts: Facts = {
        "lambda_grpo": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": {"installed": version_of("torch"), "unmet": unmet_of("lambda-grpo", ""), "error": torch_error},
        "requirements_checked": can_check(),
        "conflict": conflict,
        "engines": {name: _engine(name, unmet[name], errors.get(name), conflict) for name in ENGINES},
        "plugin": _plugin(versions["verl"], "verl" in wrong, found.get("verl", {})),
        "parts": {name: _part(part, str(sources[name]), errors.get(part.module)) for name, part in shown.items()},
        "devices": {**found["devices"], "cpu_cores": cores()},
    }
    facts["problems"], facts["hints"] = (
        [{"what": what, "do": do} for what, do in advice(facts)] for advice in (problems, hints)
    )
    return facts


def _engine(name: str, unmet: list[Facts], error: str | None, conflict: bool) -> Facts:
    versions = {package: version_of(package) for package in ENGINES[name].versions}
    if versions[name] is None:
        state = "not installed"
    elif any(one["package"] == name for one in unmet):
        state = "not supported"
    elif error:
        state = "broken"
    elif name == "verl" and conflict:
        state = "conflict"
    else:
        state = "incomplete" if blocking(name, unmet) else "ready"
    return {"state": state, "installed": versions[name], "versions": versions, "unmet": unmet, "error": error}


def _plugin(verl: str | None, wrong_verl: bool, found: Facts) -> Facts:
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    chosen = [name.strip() for name in policy.lower().split(",")]  # parsed as in verl
    state, why = "registered", None
    if verl is None:
        state, why = "not used", "verl isn't installed"
    elif wrong_verl:
        state, why = "not tried", f"verl {verl} isn't supported"
    elif "error" in found:
        state, why = "not tried", "verl can't be imported"
    elif not found["registered"]:
        if chosen != ["auto"] and (chosen == ["none"] or TRAINER not in chosen):
            state, why = "switched off", f"by VERL_USE_EXTERNAL_PLUGINS={policy}"
        elif TRAINER not in {entry.name for entry in metadata.entry_points(group="verl.plugins")}:
            state, why = "no entry point", "lambda-grpo is on the path without being installed, or an older version"
        else:
            state, why = "fails", found["plugin_error"] or f"{PLUGIN} is imported, but registers no trainer"
    return {"state": state, "why": why}


def _source(part: Part, versions: dict[str, str | None]) -> str | None:
    return next((source for source in part.sources if versions.get(source.partition("[")[0], "not an engine")), None)


def _part(part: Part, source: str, error: str | None) -> Facts:
    owner, _, extra = source.rstrip("]").partition("[")
    unmet = unmet_of(owner, extra, deeper=False) if extra else []
    if owner in ENGINES:  # the extras of an engine require more than the package that they are named after
        unmet = [one for one in unmet if one["package"] == part.package]
    installed = version_of(part.package)
    state = "not installed" if installed is None else "broken" if error else "incomplete" if unmet else "ready"
    install = f"pip install '{source}'" if extra else f"pip install {source}"
    return {"installed": installed, "state": state, "unmet": unmet, "error": error, "install": install}
