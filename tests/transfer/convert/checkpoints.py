"""Checkpoints as their projects write them, around a small random trunk."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torchvision.models import resnet

State = dict[str, torch.Tensor]


def trunk(depth: int = 18) -> State:
    """A ResNet's state with statistics that differ from initialisation."""
    torch.manual_seed(depth)
    state = getattr(resnet, f"resnet{depth}")().state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.uniform_(-0.5, 0.5)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
    return state


def moco(state: State, prefix: str = "module.") -> dict:
    query = {f"{prefix}encoder_q.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    key = {f"{prefix}encoder_k.{k}": v + 1 for k, v in state.items()}
    dim = state["fc.weight"].shape[1]
    head = {
        f"{prefix}encoder_q.fc.0.weight": torch.zeros(dim, dim),
        f"{prefix}encoder_q.fc.0.bias": torch.zeros(dim),
        f"{prefix}encoder_q.fc.2.weight": torch.zeros(128, dim),
        f"{prefix}encoder_q.fc.2.bias": torch.zeros(128),
    }
    queue = {f"{prefix}queue": torch.zeros(128, 16), f"{prefix}queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet18", "state_dict": {**query, **head, **key, **queue}, "optimizer": {}}


def put(prefix: str, state: Mapping[str, torch.Tensor]) -> State:
    return {prefix + k: v for k, v in state.items()}


def mlp(prefix: str, *layers: int) -> State:
    """Linear layers at these indices of a Sequential, small."""
    return {f"{prefix}{i}.{k}": torch.zeros(4, 4) for i in layers for k in ("weight", "bias")}


def sequential(state: State) -> State:
    """The names of `nn.Sequential(*resnet.children())`, without its classifier."""
    index = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    parts = (k.split(".", 1) for k in state)
    return {f"{index[m]}.{rest}": state[f"{m}.{rest}"] for m, rest in parts if m in index}


def layouts(state: State) -> dict[str, tuple[str, dict]]:
    """Every layout by the documented structure of its project: case -> (name in the table, content of the file).

    The trunk to take is always `state`; every other trunk in a file is another one.
    """
    t = {k: v for k, v in state.items() if not k.startswith("fc.")}
    fc = {k: v for k, v in state.items() if k.startswith("fc.")}
    other = {k: v + 1 for k, v in t.items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}
    run = {"epoch": 200, "arch": "resnet18", "optimizer": optimizer}
    lightning = {"epoch": 9, "global_step": 100, "pytorch-lightning_version": "1.5.0", "state_dict": None,
                 "callbacks": {}, "optimizer_states": [optimizer], "lr_schedulers": []}  # fmt: skip
    queue = {"queue": torch.zeros(4, 8), "queue_ptr": torch.zeros(1)}
    vissl = {"classy_state_dict": {"base_model": {"model": {
        "trunk": put("_feature_blocks.", t), "heads": mlp("0.clf.", 0)}, "meters": {}}, "optimizer": {}}}  # fmt: skip
    mm = {"meta": {"epoch": 200, "mmcls_version": "0.1"}, "optimizer": optimizer}
    return {
        "moco v1": ("MoCo v1/v2", run | {"state_dict": put("module.encoder_q.", t | fc)
                    | put("module.encoder_k.", other | fc) | put("module.", queue)}),
        "moco v2": ("MoCo v1/v2", moco(state)),
        "moco, unwrapped": ("MoCo v1/v2", moco(state, prefix="")),
        "moco, compiled": ("MoCo v1/v2", moco(state, prefix="module._orig_mod.")),
        "moco v3": ("MoCo v3", run | {"scaler": {}, "state_dict": put("module.base_encoder.", t)
                    | mlp("module.base_encoder.fc.", 0, 3) | put("module.momentum_encoder.", other)
                    | mlp("module.momentum_encoder.fc.", 0, 3) | mlp("module.predictor.", 0, 3)}),
        "linear probe": ("MoCo linear probe", run | {"best_acc1": 67.5, "state_dict": put("module.", t | fc)}),
        "linear probe, unwrapped": ("MoCo linear probe", run | {"best_acc1": 67.5, "state_dict": t | fc}),
        "simsiam": ("SimSiam", run | {"state_dict": put("module.encoder.", t) | mlp("module.encoder.fc.", 0, 3, 6)
                    | mlp("module.predictor.", 0, 3)}),
        "pycontrast": ("PyContrast", {"opt": {}, "model": put("module.encoder.", t) | mlp("module.head.", 0, 2)
                       | mlp("module.head_jig.", 0), "model_ema": put("encoder.", other), "contrast": {},
                       "optimizer": optimizer, "epoch": 200}),
        "swav, flat": ("SwAV", put("module.", t) | mlp("module.projection_head.", 0, 3)
                       | {"module.prototypes.weight": torch.zeros(4, 4)}),
        "swav": ("SwAV", run | {"state_dict": put("module.", t) | mlp("module.projection_head.", 0, 3)
                 | {"module.prototypes.prototypes0.weight": torch.zeros(4, 4)}}),
        "dino": ("DINO", {"student": put("module.backbone.", other) | mlp("module.head.mlp.", 0, 2),
                 "teacher": put("backbone.", t) | mlp("head.mlp.", 0, 2), "optimizer": optimizer, "epoch": 100}),
        "dino, flat": ("torchvision", t),
        "barlow twins": ("Barlow Twins", {"epoch": 1000, "model": put("module.backbone.", t)
                         | mlp("module.projector.", 0, 3, 6) | {f"module.bn.{k}": torch.zeros(4)
                         for k in ("running_mean", "running_var")}, "optimizer": optimizer}),
        "vicreg": ("VICReg", {"epoch": 1000, "model": put("module.backbone.", t) | mlp("module.projector.", 0, 3),
                   "optimizer": optimizer}),
        "openselfsup moco": ("OpenSelfSup / DenseCL", mm | {"state_dict": put("backbone.", t)
                             | put("encoder_q.0.", {k: v.clone() for k, v in t.items()}) | mlp("encoder_q.1.mlp.", 0, 2)
                             | put("encoder_k.0.", other) | mlp("encoder_k.1.mlp.", 0, 2) | queue}),
        "densecl": ("OpenSelfSup / DenseCL", mm | {"state_dict": put("encoder_q.0.", t) | put("encoder_k.0.", other)
                    | mlp("encoder_q.1.mlp.", 0) | mlp("encoder_q.1.mlp2.", 0) | {"queue2": torch.zeros(4, 8)}}),
        "densecl, extracted": ("DenseCL, extracted", {"state_dict": t, "author": "densecl"}),
        "openselfsup byol": ("OpenSelfSup BYOL", mm | {"state_dict": put("backbone.", t) | put("online_net.0.", t)
                             | mlp("online_net.1.mlp.", 0, 3) | put("target_net.0.", other)
                             | mlp("target_net.1.mlp.", 0, 3) | mlp("head.predictor.mlp.", 0)}),
        "mmselfsup": ("mmselfsup / mmpretrain", mm | {"state_dict": put("backbone.", t) | mlp("neck.mlp.", 0, 2)
                      | put("encoder_k.module.0.", other) | mlp("encoder_k.module.1.mlp.", 0) | queue
                      | {"data_preprocessor.mean": torch.zeros(3, 1, 1)}}),
        "vissl": ("VISSL", vissl),
        "vissl, older": ("VISSL", {"model_state_dict": put("base_model._feature_blocks.", t)}),
        "solo-learn": ("solo-learn", lightning | {"hyper_parameters": {"lr": 0.3}, "state_dict": put("backbone.", t)
                       | put("momentum_backbone.", other) | mlp("projector.", 0, 2) | mlp("momentum_projector.", 0, 2)
                       | mlp("classifier.", 0) | queue}),
        "solo-learn, older": ("solo-learn, older", lightning | {"hyper_parameters": {}, "state_dict": put("encoder.", t)
                              | put("momentum_encoder.", other) | mlp("projector.", 0, 2) | mlp("classifier.", 0)}),
        "lightly benchmark": ("lightly benchmark", lightning | {"state_dict": put("backbone.", t)
                              | put("key_backbone.", other) | mlp("projection_head.layers.", 0)
                              | mlp("key_projection_head.layers.", 0) | mlp("online_classifier.", 0)}),
        "lightly example": ("lightly example", lightning | {"state_dict": put("backbone.", sequential(t))
                            | put("backbone_momentum.", sequential(other)) | mlp("projection_head.layers.", 0)
                            | mlp("projection_head_momentum.layers.", 0)}),
        "lightly example, plain": ("lightly example", put("backbone.", sequential(t))
                                   | mlp("projection_head.layers.", 0)),
        "byol, bolts": ("BYOL (bolts)", lightning | {"state_dict": put("online_network.encoder.", t)
                        | put("target_network.encoder.", other) | mlp("online_network.projector.", 0)}),
        "torchvision": ("torchvision", t | fc),
        "torchvision training": ("torchvision", {"model": t | fc, "model_ema": put("module.", other), "args": {}}),
        "timm": ("timm", run | {"state_dict": t | fc, "state_dict_ema": other | fc}),
        "timm, no average": ("torchvision", run | {"state_dict": t | fc}),
    }  # fmt: skip
