"""Rendering of the page templates, with escaped text, the scripts that the pages need, and nothing else that runs."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

SCRIPTS = {"page": ("page.js",), "samples": ("text.js", "tokens.js", "samples.js"), "maths": ("temml.min.js",)}


def render(template: str, *, parts: tuple[str, ...] = (), **values: Any) -> str:
    """Render a page. base.html.j2 needs `verdict`, and `made_with` with the versions and the commit.

    Args:
        parts: which scripts beside the page's own are needed: "samples", "maths".
    """
    # autoescape: prompts, completions and names are arbitrary text
    environment = Environment(
        loader=PackageLoader("lambda_grpo.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    # temml first: the samples are rendered with it
    names = [name for part in ("page", "maths", "samples") if part in ("page", *parts) for name in SCRIPTS[part]]
    scripts = [static_text(name) for name in names]
    # The hashes allow these scripts alone: should a completion ever get into the page unescaped, it wouldn't run.
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return environment.get_template(template).render(
        css=Markup(static_text("page.css")),
        scripts=[Markup(text) for text in scripts],
        script_hashes=Markup(hashes),
        **values,
    )


def static_text(name: str) -> str:
    """A style sheet or script that becomes part of a page."""
    return (files("lambda_grpo.report") / "static" / name).read_text(encoding="utf-8")
