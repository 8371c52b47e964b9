"""Rendering of the page templates, with escaped text."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader


def render(template: str, **values: Any) -> str:
    """Render a page. base.html.j2 needs `verdict`, and `made_with` with the versions and the commit."""
    # autoescape: prompts, completions and names are arbitrary text
    environment = Environment(
        loader=PackageLoader("lambda_grpo.report", "templates"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
