"""Installed versions, and unmet requirements of a package."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from typing import Any

from lambda_grpo.doctor.packages import ENGINES, Facts

UNKNOWN = "(version unknown)"


def version_of(package: str) -> str | None:
    """The version of a package; None if it isn't installed, UNKNOWN if the installation has no version."""
    try:
        return metadata.version(package) or UNKNOWN
    except metadata.PackageNotFoundError:
        if package not in ENGINES:
            return None
        found = find_spec(package)  # an engine may be a checkout on PYTHONPATH; a plain folder has no origin
        return None if found is None or found.origin is None else UNKNOWN


def can_check() -> bool:
    """Whether requirements can be checked, which needs `packaging` and this package's metadata."""
    return find_spec("packaging") is not None and version_of("lambda-grpo") is not None


def unmet_of(package: str, extra: str, deeper: bool = True) -> list[Facts]:
    """The unmet requirements of package[extra], including those of packages that it requires with an extra."""
    if not can_check() or version_of(package) in (None, UNKNOWN):
        return []
    from packaging.requirements import Requirement

    unmet: dict[str, Facts] = {}
    for requirement in map(Requirement, metadata.requires(package) or []):
        if requirement.marker is None:
            if package == "lambda-grpo" and extra:
                continue  # a base requirement, which is checked separately
        elif not requirement.marker.evaluate({"extra": extra}):
            continue
        installed, needs = version_of(requirement.name), requirement.specifier
        found = []
        if not _meets(installed, needs):
            source = f"{package}[{extra}]" if extra else package
            found = [{"package": requirement.name, "installed": installed, "needs": str(needs), "named_by": source}]
        elif deeper:
            found = [one for inner in sorted(requirement.extras) for one in unmet_of(requirement.name, inner, False)]
        for one in found:
            unmet.setdefault(str(one["package"]), one)
    return list(unmet.values())


def _meets(installed: str | None, needs: Any) -> bool:
    from packaging.version import InvalidVersion

    try:
        return installed is not None and bool(needs.contains(installed, prereleases=True))
    except InvalidVersion:
        return False
