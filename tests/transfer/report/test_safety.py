"""Names that are programs: for a spreadsheet, a browser, LaTeX, a terminal or a reader's eye."""

from __future__ import annotations

import csv
import io

import pytest

from tests.transfer.report.test_tables import report, row
from transfer.report.latex import escaped as latex
from transfer.report.markup import tag
from transfer.report.table_files import escaped, markdown, plain, to_csv


@pytest.mark.parametrize("name", ["=1+2", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "＝1"])
def test_no_cell_is_a_formula(name: str) -> None:
    found = list(csv.DictReader(io.StringIO(to_csv(report(row(name, [80.0, 80.2]))))))
    assert found and all(line["row"][0] in "'\\" for line in found)
    assert float(found[0]["mean"]) == pytest.approx(80.1)  # numbers stay numbers
    assert plain("MoCo v2 - ours") == "MoCo v2 - ours" and plain("") == ""


def test_markdown_is_text() -> None:
    assert escaped("[x](javascript:alert(1))") == r"\[x\](javascript:alert(1))"
    assert escaped(r"\<img src=x>") == r"\\\<img src=x\>" and escaped("&#60;b&#62;") == r"\&#60;b\&#62;"
    assert escaped("moco_v2 _x_ `c`\n# h | ~~s~~") == r"moco_v2 \_x\_ \`c\` # h \| \~\~s\~\~"
    text = markdown(report(row("<script>\u202e</script>", [80.0, 80.2])))
    assert r"| \<script\>\\u202e\</script\> |" in text


def test_html_and_latex_show_what_is_hidden() -> None:
    assert tag("b", "a\u202e<i>\x1b", title='"\u2066') == r'<b title="&quot;\u2066">a\u202e&lt;i&gt;\x1b</b>'
    assert latex("a\u202e\nb") == r"a\textbackslash{}u202e b"
