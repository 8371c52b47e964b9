"""Everything that is found out about an environment."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from lambda_grpo import __version__
from lambda_grpo.doctor.advice import hints, in_the_way, problems
from lambda_grpo.doctor.parts import ENGINES, PARTS, PLUGIN, Facts, Part
from lambda_grpo.doctor.probe import probed
from lambda_grpo.doctor.requirements import can_check, unmet_of, version_of
from lambda_grpo.parallel import cores
from lambda_grpo.verl.versions import TRAINER, breaks_verl


def examine() -> Facts:
    """Everything that `page.describe` prints: `problems` can't work as they are, `hints` could be better."""
    versions = {name: version_of(name) for name in ENGINES}
    unmet = {name: unmet_of("lambda-grpo", name) if versions[name] else [] for name in ENGINES}
    wrong = {name for name in ENGINES if any(row["package"] == name for row in unmet[name])}
    sources = {name: _source(part, versions) for name, part in PARTS.items()}
    shown = {name: part for name, part in PARTS.items() if sources[name]}
    probes = ["devices", *(part.module for part in shown.values() if version_of(part.package))]
    probes += [name for name in ENGINES if versions[name] and name not in wrong]
    with ThreadPoolExecutor(min(4, cores())) as pool:
        found = dict(zip(probes, pool.map(probed, probes), strict=True))
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
        [{"what": what, "do": do} for what, do in found_out(facts)] for found_out in (problems, hints)
    )
    return facts


def _engine(name: str, unmet: list[Facts], error: str | None, conflict: bool) -> Facts:
    versions = {package: version_of(package) for package in ENGINES[name].versions}
    if versions[name] is None:
        state = "not installed"
    elif any(row["package"] == name for row in unmet):
        state = "not supported"
    elif error:
        state = "broken"
    elif name == "verl" and conflict:
        state = "conflict"
    else:
        state = "incomplete" if in_the_way(name, unmet) else "ready"
    return {"state": state, "installed": versions[name], "versions": versions, "unmet": unmet, "error": error}


def _plugin(verl: str | None, wrong_verl: bool, found: Facts) -> Facts:
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    chosen = [name.strip() for name in policy.lower().split(",")]  # as verl reads it
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
            state, why = "no entry point", "it was installed before it had one, or isn't installed but on the path"
        else:
            state, why = "fails", found["plugin_error"] or f"{PLUGIN} is imported, but registers no trainer"
    return {"state": state, "why": why}


def _source(part: Part, versions: dict[str, str | None]) -> str | None:
    return next((source for source in part.sources if versions.get(source.partition("[")[0], "ours")), None)


def _part(part: Part, source: str, error: str | None) -> Facts:
    owner, _, extra = source.rstrip("]").partition("[")
    unmet = unmet_of(owner, extra, deeper=False) if extra else []
    if owner in ENGINES:  # whose extras pin more than the package that they are named after
        unmet = [row for row in unmet if row["package"] == part.package]
    installed = version_of(part.package)
    state = "not installed" if installed is None else "broken" if error else "incomplete" if unmet else "ready"
    install = f"pip install '{source}'" if extra else f"pip install {source}"
    return {"installed": installed, "state": state, "unmet": unmet, "error": error, "install": install}
