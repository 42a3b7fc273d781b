"""Package metadata. Imports neither torch nor detectron2, so that `pip install .` works on a bare interpreter."""

from pathlib import Path

from setuptools import find_packages, setup

DETECTRON2_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # the upstream commit that the d2 tests run against

# Folders of the checkout that are installed as they are, in a package of their own: a `tools` or `datasets` in
# site-packages would hide those of others. Their commands are run by path (pretrain/runtime/entry.py).
SHIPPED = {
    "moco_transfer.tools": "tools",
    "moco_transfer.datasets": "datasets",
    "moco_transfer.configs": "configs",
}

setup(
    name="moco-transfer",
    version="0.1.0",
    description="MoCo pre-training and its downstream evaluation: Detectron2 and torchvision engines behind one YAML",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["pretrain", "pretrain.*", "transfer", "transfer.*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={
        "pretrain": ["py.typed"],
        "transfer": ["py.typed", "report/*.html", "report/*.css"],
        "moco_transfer.datasets": ["README.md"],
        "moco_transfer.configs": ["**/*.yaml"],
    },
    entry_points={"console_scripts": ["moco-transfer = pretrain.runtime.entry:entry"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5.post20221221",
        "pycocotools>=2.0.8",
        "faster-coco-eval>=1.6",
        "opencv-python-headless>=4.8",
        "numpy>=1.26",
        "pillow>=10.1",
        "pyyaml>=6",
        "tqdm>=4.66",
        "tensorboard>=2.14",
        "matplotlib>=3.8",
        "scipy>=1.11",
        "safetensors>=0.4",
        "pydantic>=2.7",
    ],
    extras_require={
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.11",
            "types-PyYAML",
            "types-tqdm",
            "submitit>=1.5",
            "setuptools>=77",  # a test builds the wheel
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "onnx>=1.16",  # what the extra `export` asks for
            "onnxruntime>=1.18",
        ],
        "export": ["onnx>=1.16", "onnxruntime>=1.18"],  # tools/export.py --format onnx
        "docs": ["sphinx>=8", "myst-parser>=4", "pydata-sphinx-theme>=0.16"],  # make docs
        "cluster": ["submitit>=1.5"],  # trials side by side, and on SLURM
        "detectron2": [f"detectron2 @ git+https://github.com/facebookresearch/detectron2@{DETECTRON2_COMMIT}"],
    },
)
