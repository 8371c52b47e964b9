"""Which versions are installed, and which of a package's requirements they don't meet."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from typing import Any

from lambda_grpo.doctor.parts import ENGINES, Facts

UNKNOWN = "(version unknown)"


def version_of(package: str) -> str | None:
    """None where it isn't installed, UNKNOWN where it is there in a way that names no version."""
    try:
        return metadata.version(package) or UNKNOWN
    except metadata.PackageNotFoundError:
        if package not in ENGINES:
            return None
        found = find_spec(package)  # an engine may be a checkout on PYTHONPATH; a mere folder has no origin
        return None if found is None or found.origin is None else UNKNOWN


def can_check() -> bool:
    """Whether requirements can be read: `packaging` comes with each engine, metadata with each installation."""
    return find_spec("packaging") is not None and version_of("lambda-grpo") is not None


def unmet_of(package: str, extra: str, deeper: bool = True) -> list[Facts]:
    """The requirements of package[extra] that aren't met here; also those of packages that it names with an extra."""
    if not can_check() or version_of(package) in (None, UNKNOWN):
        return []
    from packaging.requirements import Requirement

    unmet: dict[str, Facts] = {}
    for requirement in map(Requirement, metadata.requires(package) or []):
        if requirement.marker is None:
            if package == "lambda-grpo" and extra:
                continue  # the base's, looked at by itself
        elif not requirement.marker.evaluate({"extra": extra}):
            continue
        installed, needs = version_of(requirement.name), requirement.specifier
        rows = []
        if not _meets(installed, needs):
            source = f"{package}[{extra}]" if extra else package
            rows = [{"package": requirement.name, "installed": installed, "needs": str(needs), "named_by": source}]
        elif deeper:
            rows = [row for inner in sorted(requirement.extras) for row in unmet_of(requirement.name, inner, False)]
        for row in rows:
            unmet.setdefault(str(row["package"]), row)
    return list(unmet.values())


def _meets(installed: str | None, needs: Any) -> bool:
    from packaging.version import InvalidVersion

    try:
        return installed is not None and bool(needs.contains(installed, prereleases=True))
    except InvalidVersion:
        return False
