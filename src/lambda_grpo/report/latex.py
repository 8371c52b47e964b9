"""Tables as LaTeX, for a paper. They need the package booktabs, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lambda_grpo.report.study_tables import Cell, Table, titled

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"''", "-": "-{}", "[": "{[}", "–": "--", "−": "$-$", "λ": r"$\lambda$", "\u00a0": "~",
}  # fmt: skip
# A hyphen before another one would become a dash; a bracket after a line break would be its argument
_SPECIAL = re.compile(r"-(?=-)|[" + re.escape("".join(_ESCAPES).replace("-", "")) + "]")


def escape(text: str) -> str:
    """Text as LaTeX prints it as it is. Letters beyond Latin need XeLaTeX or LuaLaTeX."""
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text)


def latex_table(table: Table, caption: str, label: str) -> str:
    r"""A table as a float with its notes below, to be read with `\input`.

    Args:
        label: for `\ref`, after "tab:". Letters, digits and hyphens.
    """
    columns = "".join("r" if "number" in cell.kind else "l" for cell in table.rows[0])
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\par\smallskip",
        r"\small\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_rows([titled(title) for title in table.header]),
        r"\midrule",
    ]
    for row in table.rows:
        lines += _rows(row)
        if len(_rows(row)) > 1:
            lines.append(r"\addlinespace[2pt]")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize"]
        lines += [rf"{escape(note)}\par" for note in table.notes]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table}", ""])


def _rows(cells: Sequence[Cell]) -> list[str]:
    """A row of cells as one line, or as two if some have text below."""
    lines = [[rf"\textbf{{{escape(cell.text)}}}" if "chosen" in cell.kind else escape(cell.text) for cell in cells]]
    if any(cell.below for cell in cells):
        lines.append([rf"{{\scriptsize {escape(cell.below)}}}" if cell.below else "" for cell in cells])
    return [" & ".join(line) + r" \\" for line in lines]
