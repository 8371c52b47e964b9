"""What every page shares: the templates, and that text in them is escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader


def render(template: str, **values: Any) -> str:
    """A page from its template. base.html.j2 takes `verdict`, and `made_with` with the versions and the commit."""
    # autoescape: prompts and completions are whatever the model wrote, and names are whatever the user chose
    environment = Environment(
        loader=PackageLoader("lambda_grpo.report", "templates"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
