"""Files beside the code agree with it: the image, the workflow, the hooks, the citation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

SETUP = (ROOT / "setup.py").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def instructions(word: str) -> list[str]:
    """The arguments of every such instruction of the Dockerfile, its continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(word + " ")]


def left_out(path: str, patterns: list[str]) -> bool:
    """Whether Docker leaves a file out: the last pattern that matches it or a folder above it decides.

    A slash at a pattern's end says nothing, other than in git: `datasets/*/` leaves out the files too.
    """
    out = False
    above = [path, *map(str, Path(path).parents)][:-1]
    for pattern in patterns:
        wanted = pattern.lstrip("!").rstrip("/")
        # a star ends at a slash; two stars are any number of folders
        expression = re.escape(wanted).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, name) for name in above):
            out = not pattern.startswith("!")
    return out


def test_the_image_copies_what_there_is_and_what_an_installation_needs():
    sources = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    folders = set(re.findall(r'"moco_transfer\.\w+": "(\w+)"', SETUP)) | {"pretrain", "transfer"}
    assert folders | {"setup.py", "pyproject.toml", "README.md", "LICENSE"} == set(sources)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*" and {line[1:].split("/")[0] for line in ignored if line.startswith("!")} == set(sources)
    folders -= {"datasets"}  # which may hold data too
    needed = [*(p for name in folders for p in (ROOT / name).rglob("*.*") if p.suffix != ".pyc")]
    needed += [ROOT / "datasets" / "README.md", *(ROOT / "datasets").glob("*.py")]
    assert [str(p) for p in needed if left_out(str(p.relative_to(ROOT)), ignored[1:])] == []
    assert all(
        left_out(f"datasets/VOC2007/{file}", ignored[1:]) for file in ("ImageSets", "ImageSets/Main/a.txt", "a.py")
    )


def test_the_image_has_the_versions_of_setup():
    asked = " ".join(instructions("RUN"))
    for package in ("torch", "torchvision"):
        assert (limit := re.search(rf'"({package}>=[\d.]+)"', SETUP)) and f'"{limit[1]}"' in asked
    assert not re.search(r"[0-9a-f]{40}", DOCKERFILE), "setup.py alone says which commit of Detectron2"
    (commit,) = re.findall(r'^DETECTRON2_COMMIT = "([0-9a-f]{40})"', SETUP, re.M)
    program = re.search(r"sed -n '([^']+)'", asked)
    assert program is not None
    done = subprocess.run(["sed", "-n", program[1], ROOT / "setup.py"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == commit
    makefile = (ROOT / "Makefile").read_text()
    assert program[1].replace("$(", "$$(").replace(".*/\\1/p", "") in makefile  # one rule for both


def test_the_cuda_of_the_image_and_of_its_torch_agree():
    """Those of the commands at its top: base images are named by their CUDA version, indices of PyTorch too."""
    base, torch = (
        re.search(r"BASE=nvidia/cuda:(\d+)\.(\d+)\.\d+-devel\S*", DOCKERFILE),
        re.search(r"TORCH=cu(\d+)", DOCKERFILE),
    )
    assert base and torch and torch[1] == base[1] + base[2]


def test_the_workflow_runs_the_pythons_of_setup_and_the_commands_of_make():
    jobs = read(".github/workflows/tests.yml")["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    first = re.search(r'python_requires=">=([\d.]+)"', SETUP)
    assert first and matrix["python"][0] == first[1] == matrix["include"][0]["python"]
    runs = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"lint", "test", "docs"} <= set(re.findall(r"make (\w+)", runs)) <= targets


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_have_what_github_asks_for(name):
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) and all(field["attributes"]["label"] for field in form["body"])


def test_the_hooks_run_what_make_lint_runs():
    (repo,) = read(".pre-commit-config.yaml")["repos"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert lint is not None
    for hook in repo["hooks"]:
        tool = hook["entry"].removeprefix(".venv/bin/").split(" --")[0]
        assert re.search(rf"\$\(VENV\)/bin/{tool.removesuffix(' check')}", lint[1]), hook["id"]


def test_the_citation_is_of_this_version():
    cited, version = read("CITATION.cff"), re.search(r'version="([\d.]+)"', SETUP)
    assert version and str(cited["version"]) == version[1] and cited["license"] in SETUP
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
