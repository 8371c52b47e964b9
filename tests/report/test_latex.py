"""Tables as LaTeX: what is escaped, and that every row fits the columns.

That they compile was tried by hand: `pdflatex` of an article with booktabs that reads the tables of a study, also with
the names below.
"""

import re

from lambda_grpo.report.latex import escape, latex_table
from lambda_grpo.report.study_page import write_study_report
from lambda_grpo.report.study_tables import Cell, Table
from tests.report.test_study_page import make_results

HOSTILE = r'\input{/etc/passwd} $x_1^2$ 5% & #1 ~ <b> "|'


def rows(latex):
    """The cells of each line of the tabular."""
    body = latex.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r" \\")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


def test_what_latex_would_read_as_a_command_is_text():
    assert escape(HOSTILE) == (
        r"\textbackslash{}input\{/etc/passwd\} \$x\_1\textasciicircum{}2\$ 5\% \& \#1 \textasciitilde{} "
        r"\textless{}b\textgreater{} ''\textbar{}"
    )
    assert escape("−0.5 – 1 λ 90\u00a0%") == r"$-$0.5 -- 1 $\lambda$ 90~\%"
    assert escape("a-b a--b") == "a-b a-{}-b"  # not a dash
    assert escape("[2pt]") == "{[}2pt]"  # after \\ it would be a length


def test_every_row_has_a_cell_for_each_column():
    table = Table(
        ["objective", "difference (points)", "n"],
        [[Cell(HOSTILE, kind=""), Cell("+1.00", kind="number chosen"), Cell("3")],
         [Cell("[b]", kind=""), Cell("−0.50", "−1.00 – 0.00"), Cell("–")]],
        ["Notes are 100 % text_."],
    )  # fmt: skip
    latex = latex_table(table, "A & B", "a-differences")
    assert r"\begin{tabular}{lrr}" in latex
    assert [len(row) for row in rows(latex)] == [3] * 5  # the header's units and one row have text below
    assert [row[1] for row in rows(latex)] == [
        "difference", r"{\scriptsize points}", r"\textbf{+1.00}", "$-$0.50", r"{\scriptsize $-$1.00 -- 0.00}",
    ]  # fmt: skip
    assert r"\caption{A \& B}" in latex
    assert r"\label{tab:a-differences}" in latex
    assert r"Notes are 100 \% text\_.\par" in latex
    for environment in ("table", "tabular", "minipage"):
        assert latex.count(rf"\begin{{{environment}}}") == latex.count(rf"\end{{{environment}}}") == 1


def test_the_tables_of_a_study(tmp_path):
    results = make_results(names=["grpo", "lambda_grpo", HOSTILE], tasks=["arithmetic"])
    results["comparisons"][0] |= {"verdict": "better", "p_holm": 0.01}
    write_study_report(results, tmp_path)
    differences, objectives = (
        (tmp_path / "tables" / f"arithmetic-{kind}.tex").read_text() for kind in ("differences", "objectives")
    )
    record = results["comparisons"][0]
    shown = f"{100 * record['difference']:+.2f}".replace("-", "$-$")
    assert rows(differences)[2][:2] == [r"lambda\_grpo", rf"\textbf{{{shown}}}"]
    assert "Bold: p after Holm is below 0.05." in differences
    assert r"with the 95 \% interval and p of the paired t test" in differences
    # a column for each objective, a row for each of its figures
    assert rows(objectives)[0] == ["objective", "grpo", r"lambda\_grpo", escape(HOSTILE)]
    assert {len(row) for row in rows(objectives)} == {4}
    accuracy = next(row for row in rows(objectives) if row[0] == "accuracy")
    means = [f"{100 * row['accuracy']['mean']:.1f}" for row in results["objectives"]]
    assert accuracy[1:] == means


def test_one_seed_has_neither_intervals_nor_tests(tmp_path):
    write_study_report(make_results(names=["grpo", "dapo"], tasks=["arithmetic"], seeds=1), tmp_path)
    for kind in ("differences", "objectives"):
        latex = (tmp_path / "tables" / f"arithmetic-{kind}.tex").read_text()
        assert "95" not in latex
        assert "paired t test" not in latex
