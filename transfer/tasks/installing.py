"""Says how Detectron2 and its DensePose project are installed: by make in a checkout, by pip beside an installation."""

from __future__ import annotations

import importlib.metadata

from pretrain.runtime.shipped import is_installed

_REPOSITORY = "git+https://github.com/facebookresearch/detectron2"


def how_to_install(*parts: str) -> str:
    """Returns the command that installs `detectron2` or its `densepose`, in backquotes.

    They are on no package index. Their setup.py imports torch, hence --no-build-isolation, and DensePose's asks for
    another commit of Detectron2, hence --no-deps.
    """
    if not is_installed():
        return f"`make {' '.join(parts)}`"
    url = _url()
    commands = {
        "detectron2": f'pip install "setuptools<81" wheel ninja && pip install --no-build-isolation "{url}"',
        "densepose": f'pip install "setuptools<81" wheel scipy av && pip install --no-deps --no-build-isolation '
        f'"{url}#subdirectory=projects/DensePose"',
    }
    return f"`{' && '.join(commands[part] for part in parts)}`"


def _url() -> str:
    """Returns where Detectron2 is, at the commit that the package's metadata name."""
    try:
        wanted = importlib.metadata.requires("moco-transfer") or []
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    return next((word for line in wanted for word in line.split() if word.startswith(_REPOSITORY)), _REPOSITORY)
