"""How pages are read: what is a command and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.commands import anchors, blocks, commands, links, named_files, spans

PAGE = """\
# A page: with `code`, twice
See [there](there.md#x).

```bash
# a comment
python a.py  --b 'c d'      # said beside it
X=1 python b.py \\
    --c
```

```yaml
# set.yaml -> names
name: set
```

* an item
  that `goes` on
"""


def test_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = commands(str(page))
    assert [(c.line, c.text) for c in found] == [(6, "python a.py --b 'c d'"), (7, "X=1 python b.py --c")]
    assert found[0].words == ["python", "a.py", "--b", "c d"]
    assert named_files(str(page)) == {"set.yaml": "# set.yaml -> names\nname: set\n"}
    assert list(links(str(page))) == [(2, "there.md#x")] and anchors(str(page)) == {"a-page-with-code-twice"}
    assert list(spans(str(page))) == [(1, "code"), (17, "goes")]


@pytest.mark.parametrize(
    ("text", "message"), [("a\n\n    python a.py\n", "indented block"), ("```bash\npython a.py\n", "not closed")]
)
def test_what_would_hide_a_command(tmp_path: Path, text: str, message: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=message):
        blocks(str(page))
