# Everything, with Detectron2 built in. On CPUs:
#   docker build -t moco-transfer .
#   docker run --rm --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD":/work moco-transfer lint-config configs/transfer/voc/faster_rcnn_R_50_C4_24k_moco.yaml
# On NVIDIA GPUs; TORCH is an index of https://download.pytorch.org/whl/ and must be of BASE's CUDA version:
#   docker build -t moco-transfer:cuda --build-arg BASE=nvidia/cuda:12.6.3-devel-ubuntu24.04 --build-arg TORCH=cu126 .
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD":/work moco-transfer:cuda train-net --config-file ...
ARG BASE=ubuntu:24.04
FROM ${BASE}

# "cpu" or e.g. "cu126"; and the GPUs that Detectron2's operators are compiled for
ARG TORCH=cpu
ARG CUDA_ARCHS="7.0;7.5;8.0;8.6;9.0+PTX"

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PATH=/opt/venv/bin:$PATH
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ git ninja-build python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv

RUN pip install "torch>=2.6" "torchvision>=0.21" --index-url "https://download.pytorch.org/whl/${TORCH}"

# Detectron2 before our sources, so that it is built once; setup.py says which commit
COPY setup.py /src/
RUN pip install "setuptools<81" wheel \
    && commit="$(sed -n 's/^DETECTRON2_COMMIT = "\([0-9a-f]*\)".*/\1/p' /src/setup.py)" \
    && FORCE_CUDA="$([ "${TORCH}" = cpu ] && echo 0 || echo 1)" TORCH_CUDA_ARCH_LIST="${CUDA_ARCHS}" \
       pip install --no-build-isolation "git+https://github.com/facebookresearch/detectron2@${commit}"

COPY pyproject.toml README.md LICENSE /src/
COPY pretrain /src/pretrain
COPY transfer /src/transfer
COPY tools /src/tools
COPY datasets /src/datasets
COPY configs /src/configs
RUN pip install "/src[export]" \
    && python -c "import detectron2._C, detectron2.engine, transfer.engines.d2.engine" \
    && moco-transfer --version && moco-transfer prepare-generated --help > /dev/null

# --user may name someone whom the image does not know: a home to write caches to, and a name for PyTorch's compiler
RUN mkdir -m 1777 /home/moco
ENV HOME=/home/moco USER=moco

# configs/... and datasets/... are looked for here first; mount the folder you work in
WORKDIR /work
ENTRYPOINT ["moco-transfer"]
