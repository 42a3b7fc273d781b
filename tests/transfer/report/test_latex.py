"""table.tex: what a paper prints, escaped, and compiled where there is a LaTeX."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.transfer.report.test_tables import PUBLISHED, report, row
from transfer.report.latex import escaped, table

REPORT = report(
    row("Supervised & co", [80.0, 80.1, 80.2], published={"bbox/AP50": 80.0}),
    row("MoCo_v2 <ours>", [80.5, 80.6, 80.7], published=PUBLISHED),
    row("worse", [79.0, 79.2]),
    row("Half", [81.0], wanted=2),
)


def test_rows_gains_and_published_numbers() -> None:
    lines = table(REPORT).splitlines()
    std = r"{\scriptsize$\pm$\,0.1}"
    assert "\\begin{tabular}{lr@{\\;}lr@{\\;}l}" in lines
    assert r"pre-train & \multicolumn{2}{c}{AP50} & \multicolumn{2}{c}{AP} \\" in lines
    assert rf"Supervised \& co & 80.1 {std} & & 60.1 {std} & \\" in lines
    green = r"\textcolor{better}{(+0.5)}"
    assert rf"MoCo\_v2 \textless{{}}ours\textgreater{{}} & 80.6 {std} & {green} & 60.6 {std} & {green} \\" in lines
    assert rf"worse & 79.1 {std} & ($-$1.0) & 59.1 {std} & ($-$1.0) \\" in lines
    theirs = r"\textcolor{gray}{81.5} & \textcolor{gray}{($-$0.9)} & \textcolor{gray}{55.9} & \textcolor{gray}{(+4.7)}"
    assert rf"\quad\textcolor{{gray}}{{published}} & {theirs} \\" in lines
    assert r"\quad\textcolor{gray}{published} & \textcolor{gray}{80.0} & \textcolor{gray}{(+0.1)} & & \\" in lines
    assert "1 of 2 trials" in next(line for line in lines if line.startswith("Half"))
    assert "Half: 1 of 2 trials, not averaged." in lines[-2]
    for rule in ("\\toprule", "\\cmidrule(lr){2-3}\\cmidrule(lr){4-5}", "\\bottomrule"):
        assert rule in lines


def test_every_row_has_as_many_columns_as_the_table() -> None:
    body = [line for line in table(REPORT).splitlines() if line.endswith("\\\\")]
    columns = [line.count(" &") + line.count("\\multicolumn{2}") for line in body]
    assert columns == [4] * len(body) and len(body) == 7


def test_special_characters() -> None:
    assert escaped("50% of $x_1^2 {a} \\ ~#") == (
        r"50\% of \$x\_1\textasciicircum{}2 \{a\} \textbackslash{} \textasciitilde{}\#"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_it_compiles(tmp_path: Path) -> None:
    text = "\\documentclass{article}\\usepackage{booktabs}\\usepackage{xcolor}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "t.tex").write_text(text % table(REPORT))
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout.decode()[-2000:]
