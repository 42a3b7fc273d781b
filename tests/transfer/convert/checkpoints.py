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
    key = {f"{prefix}encoder_k.{k}": v * 0.99 if v.is_floating_point() else v for k, v in state.items()}
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


def batch_norm(prefix: str) -> State:
    """A small batch norm of a head."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}{k}": torch.ones(4) for k in parts} | {f"{prefix}num_batches_tracked": torch.tensor(1)}


def caffe_style(state: State) -> State:
    """Names of torchvision, values of Caffe: statistics folded into trained scales, no counters."""
    out = {k: v.clone() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    for key, value in out.items():
        if key.endswith("running_mean"):
            value.zero_()
            out[key.replace("running_mean", "weight")].uniform_(0.1, 0.6)
        elif key.endswith("running_var"):
            value.fill_(1)
    return out


def layouts(state: State) -> dict[str, tuple[str, dict]]:
    """Every layout by the documented structure of its project: case -> (name in the table, content of the file).

    Files are whole: with heads, queues, momentum encoders, counters and what stands beside the weights. The trunk to
    take is always `state`; every other trunk in a file is another one, or a second name of the same.
    """
    t = {k: v for k, v in state.items() if not k.startswith("fc.")}
    fc = {k: v for k, v in state.items() if k.startswith("fc.")}
    other = {k: v + 1 for k, v in t.items()}
    alias = {k: v.clone() for k, v in t.items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}
    run = {"epoch": 200, "arch": "resnet18", "optimizer": optimizer}
    lightning = {"epoch": 9, "global_step": 100, "pytorch-lightning_version": "1.5.0", "state_dict": None,
                 "callbacks": {}, "optimizer_states": [optimizer], "lr_schedulers": []}  # fmt: skip
    queue = {"queue": torch.zeros(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    solo = lightning | {"hyper_parameters": {"lr": 0.3, "method": "mocov2plus"}}
    solo_heads = (mlp("projector.", 0, 2) | mlp("momentum_projector.", 0, 2) | mlp("predictor.", 0, 3) | queue
                  | {"classifier.weight": torch.zeros(4, 4), "classifier.bias": torch.zeros(4)})  # fmt: skip
    benchmark = lightning | {"hyper_parameters": {"batch_size_per_device": 128, "num_classes": 1000}}
    online = {"online_classifier.linear.weight": torch.zeros(4, 4), "online_classifier.linear.bias": torch.zeros(4)}
    lightly_head = mlp("projection_head.layers.", 0, 3) | batch_norm("projection_head.layers.1.")
    vissl_trunk = {"trunk": put("_feature_blocks.", t), "heads": mlp("0.clf.", 0)}
    vissl_other = {"trunk": put("_feature_blocks.", other), "heads": mlp("0.clf.", 0)}
    vissl = {"phase_idx": 9, "iteration": 100, "loss": {}, "iteration_num": 9, "train_phase_idx": 9, "type": "phase"}
    classy = {"base_model": {"model": vissl_trunk, "meta": {}}, "meters": [], "optimizer": {}, "train": True}
    mm = {"meta": {"epoch": 200, "mmcls_version": "0.1"}, "optimizer": optimizer}
    mm_steps = {"encoder_k.steps": torch.tensor(9)}
    mm_moco = mlp("neck.mlp.", 0, 2) | mlp("encoder_k.module.1.mlp.", 0, 2) | mm_steps | queue
    fcos = mlp("neck.lateral_convs.", 0) | mlp("bbox_head.cls_convs.", 0) | mlp("rpn_head.", 0)
    pix = (put("module.encoder.", t) | put("module.encoder_k.", other)
           | {f"module.{name}.{k}": v for name in ("projector", "projector_k") for k, v in (
               mlp("linear", 1, 2) | batch_norm("bn1.")).items()})  # fmt: skip
    nets = (put("net.", alias | fc) | put("online_encoder.net.", t | fc) | put("target_encoder.net.", other | fc)
            | mlp("online_encoder.projector.", 0, 3) | batch_norm("online_encoder.projector.1.")
            | mlp("target_encoder.projector.", 0, 3) | mlp("online_predictor.", 0, 3))  # fmt: skip
    flat_moco = moco(state, prefix="")["state_dict"]
    return {
        "moco v1": ("MoCo v1/v2", run | {"state_dict": put("module.encoder_q.", t | fc)
                    | put("module.encoder_k.", other | fc) | put("module.", queue)}),
        "moco v2": ("MoCo v1/v2", moco(state)),
        "moco, unwrapped": ("MoCo v1/v2", moco(state, prefix="")),
        "moco, compiled": ("MoCo v1/v2", moco(state, prefix="module._orig_mod.")),
        "moco, encoders compiled": ("MoCo v1/v2", run | {"state_dict": put("encoder_q._orig_mod.", t)
                                    | mlp("encoder_q._orig_mod.fc.", 0, 2) | put("encoder_k._orig_mod.", other)
                                    | mlp("encoder_k._orig_mod.fc.", 0, 2) | queue}),
        "moco, head beside fc": ("MoCo v1/v2", run | {"state_dict": put("module.encoder_q.", t)
                                 | mlp("module.encoder_q.mlp.", 0, 2) | put("module.encoder_k.", other)
                                 | mlp("module.encoder_k.mlp.", 0, 2) | put("module.", queue)}),
        "moco, its state dict alone": ("MoCo v1/v2", flat_moco),
        "moco, under model": ("MoCo v1/v2", {"model": put("module.", flat_moco), "optimizer": optimizer}),
        "moco, deepspeed": ("MoCo v1/v2", {"module": flat_moco, "ds_version": "0.14", "global_steps": 9}),
        "moco v3": ("MoCo v3", run | {"scaler": {}, "state_dict": put("module.base_encoder.", t)
                    | mlp("module.base_encoder.fc.", 0, 3) | batch_norm("module.base_encoder.fc.1.")
                    | put("module.momentum_encoder.", other) | mlp("module.momentum_encoder.fc.", 0, 3)
                    | mlp("module.predictor.", 0, 3) | batch_norm("module.predictor.1.")}),
        "linear probe": ("MoCo linear probe", run | {"best_acc1": 67.5, "state_dict": put("module.", t | fc)}),
        "linear probe, unwrapped": ("MoCo linear probe", run | {"best_acc1": 67.5, "state_dict": t | fc}),
        "simsiam": ("SimSiam", run | {"state_dict": put("module.encoder.", t) | mlp("module.encoder.fc.", 0, 3, 6)
                    | batch_norm("module.encoder.fc.1.") | mlp("module.predictor.", 0, 3)
                    | batch_norm("module.predictor.1.")}),
        "pixpro": ("PixPro / SoCo", {"opt": {}, "model": pix | mlp("module.value_transform.", 0),
                   "optimizer": optimizer, "scheduler": {}, "epoch": 100}),
        "soco": ("PixPro / SoCo", {"opt": {}, "model": pix | mlp("module.predictor.linear", 1, 2)
                 | mlp("module.neck.lateral_convs.", 0) | mlp("module.neck_k.lateral_convs.", 0)
                 | mlp("module.head.shared_fcs.", 0) | mlp("module.head_k.shared_fcs.", 0),
                 "optimizer": optimizer, "scheduler": {}, "epoch": 100}),
        "pycontrast": ("PyContrast", {"model": put("module.encoder.", t) | mlp("module.head.", 0, 2)
                       | mlp("module.head_jig.fc1.", 0), "model_ema": put("encoder.", other) | mlp("head.", 0, 2),
                       "contrast": {"memory": torch.zeros(4, 4)}, "optimizer": optimizer, "epoch": 200}),
        "pycontrast, memory bank": ("PyContrast", {"model": put("module.encoder.", t) | mlp("module.head.", 0),
                                    "contrast": {"memory": torch.zeros(4, 4)}, "optimizer": optimizer, "epoch": 200}),
        "supcontrast": ("a trunk named encoder", {"opt": {}, "model": put("encoder.module.", t) | mlp("head.", 0, 2),
                        "optimizer": optimizer, "epoch": 1000}),
        "simclr, flat": ("a trunk named encoder", put("encoder.", t) | mlp("projector.", 0, 2)),
        "swav, flat": ("SwAV", put("module.", t) | mlp("module.projection_head.", 0, 3)
                       | batch_norm("module.projection_head.1.") | {"module.prototypes.weight": torch.zeros(4, 4)}),
        "swav": ("SwAV", run | {"amp": {}, "state_dict": put("module.", t) | mlp("module.projection_head.", 0, 3)
                 | batch_norm("module.projection_head.1.")
                 | {"module.prototypes.prototypes0.weight": torch.zeros(4, 4)}}),
        "dino": ("DINO", {"student": put("module.backbone.", other) | mlp("module.head.mlp.", 0, 2, 4)
                 | {"module.head.last_layer.weight_g": torch.zeros(4, 1)},
                 "teacher": put("backbone.", t) | mlp("head.mlp.", 0, 2, 4)
                 | {"head.last_layer.weight_g": torch.zeros(4, 1)}, "optimizer": optimizer, "epoch": 100,
                 "args": {}, "dino_loss": {"center": torch.zeros(1, 4)}, "fp16_scaler": {}}),
        "dino, flat": ("torchvision", t),
        "barlow twins": ("Barlow Twins", {"epoch": 1000, "model": put("module.backbone.", t)
                         | mlp("module.projector.", 0, 3, 6) | batch_norm("module.projector.1.")
                         | {f"module.bn.{k}": torch.zeros(4) for k in ("running_mean", "running_var")},
                         "optimizer": optimizer}),
        "vicreg": ("VICReg", {"epoch": 1000, "model": put("module.backbone.", t) | mlp("module.projector.", 0, 3)
                   | batch_norm("module.projector.1."), "optimizer": optimizer}),
        "openselfsup moco": ("OpenSelfSup / DenseCL", mm | {"state_dict": put("backbone.", t)
                             | put("encoder_q.0.", alias) | mlp("encoder_q.1.mlp.", 0, 2)
                             | put("encoder_k.0.", other) | mlp("encoder_k.1.mlp.", 0, 2) | queue}),
        "densecl": ("OpenSelfSup / DenseCL", mm | {"state_dict": put("encoder_q.0.", t) | put("encoder_k.0.", other)
                    | mlp("encoder_q.1.mlp.", 0, 2) | mlp("encoder_q.1.mlp2.", 0, 2) | mlp("encoder_k.1.mlp.", 0, 2)
                    | mlp("encoder_k.1.mlp2.", 0, 2) | queue
                    | {"queue2": torch.zeros(4, 8), "queue2_ptr": torch.zeros(1, dtype=torch.long)}}),
        "densecl, extracted": ("extracted, author named", {"state_dict": t, "author": "DenseCL"}),
        "mmselfsup, extracted": ("extracted, author named", {"state_dict": t, "author": "MMSelfSup"}),
        "openselfsup byol": ("OpenSelfSup BYOL", mm | {"state_dict": put("backbone.", alias) | put("online_net.0.", t)
                             | mlp("online_net.1.mlp.", 0, 3) | put("target_net.0.", other)
                             | mlp("target_net.1.mlp.", 0, 3) | mlp("head.predictor.mlp.", 0)}),
        "mmselfsup moco": ("mmselfsup / mmpretrain", mm | {"state_dict": put("backbone.", t) | mm_moco
                           | put("encoder_k.module.0.", other)
                           | {"data_preprocessor.mean": torch.zeros(3, 1, 1)}, "message_hub": {}}),
        "mmselfsup byol": ("mmselfsup / mmpretrain", mm | {"state_dict": put("backbone.", t) | mlp("neck.", 0, 3)
                           | put("target_net.module.0.", other) | mlp("target_net.module.1.", 0, 3)
                           | {"target_net.steps": torch.tensor(9)} | mlp("head.predictor.", 0, 3)}),
        "mmselfsup moco v3": ("mmselfsup / mmpretrain", mm | {"state_dict": put("backbone.", t) | mlp("neck.fc", 0, 1)
                              | put("momentum_encoder.module.0.", other) | mlp("momentum_encoder.module.1.fc", 0, 1)
                              | mlp("head.predictor.fc", 0, 1)}),
        "mmpretrain, averaged": ("mmselfsup / mmpretrain", mm | {"state_dict": put("backbone.", t) | put("head.", fc),
                                 "ema_state_dict": put("module.backbone.", other) | put("module.head.", fc)
                                 | {"steps": torch.tensor(9)}, "message_hub": {}}),
        "mmdetection": ("OpenMMLab detector", mm | {"state_dict": put("backbone.", t) | fcos}),
        "vissl": ("VISSL", vissl | {"classy_state_dict": classy}),
        "vissl moco": ("VISSL", vissl | {"classy_state_dict": classy, "loss": put("moco_encoder.trunk._feature_blocks.",
                       other) | mlp("moco_encoder.heads.0.clf.", 0) | queue}),
        "vissl moco, loss within": ("VISSL", vissl | {"classy_state_dict": classy | {
            "loss": put("moco_encoder.trunk._feature_blocks.", other) | queue}}),
        "vissl dino": ("VISSL", vissl | {"classy_state_dict": classy, "loss": put(
            "momentum_teacher.module.trunk._feature_blocks.", other) | {"center": torch.zeros(1, 4)}}),
        "vissl, averaged": ("VISSL", vissl | {"classy_state_dict": classy | {
            "ema_model": {"model": vissl_other, "meta": {}}, "ema_meters": []}}),
        "vissl, older": ("VISSL", {"model_state_dict": put("base_model._feature_blocks.", t)}),
        "solo-learn": ("solo-learn", solo | {"state_dict": put("backbone.", t) | put("momentum_backbone.", other)
                       | solo_heads}),
        "solo-learn, older": ("solo-learn, older", solo | {"state_dict": put("encoder.", t)
                              | put("momentum_encoder.", other) | solo_heads}),
        "lightly benchmark moco": ("lightly benchmark", benchmark | {"state_dict": put("backbone.", t) | lightly_head
                                   | put("key_backbone.", other) | mlp("key_projection_head.layers.", 0, 3) | online
                                   | {"criterion.memory_bank.bank": torch.zeros(4, 8)}}),
        "lightly benchmark byol": ("lightly benchmark", benchmark | {"state_dict": put("backbone.", t) | lightly_head
                                   | mlp("prediction_head.layers.", 0, 3) | put("teacher_backbone.", other)
                                   | mlp("teacher_projection_head.layers.", 0, 3) | online}),
        "lightly benchmark tico": ("lightly benchmark", benchmark | {"state_dict": put("backbone.", t) | lightly_head
                                   | put("backbone_momentum.", other) | online}),
        "lightly benchmark dino": ("lightly benchmark", benchmark | {"state_dict": put("backbone.", t) | lightly_head
                                   | put("student_backbone.", other) | online
                                   | mlp("student_projection_head.layers.", 0, 3)
                                   | {"criterion.center": torch.zeros(1, 1, 4)}}),
        "lightly example": ("lightly example", lightning | {"state_dict": put("backbone.", sequential(t))
                            | put("backbone_momentum.", sequential(other)) | lightly_head
                            | mlp("projection_head_momentum.layers.", 0, 3)}),
        "lightly example, plain": ("lightly example", put("backbone.", sequential(t)) | lightly_head),
        "lightly example dino": ("lightly example of DINO", lightning | {"state_dict": put("student_backbone.",
                                 sequential(other)) | mlp("student_head.layers.", 0, 2) | mlp("teacher_head.layers.", 0)
                                 | put("teacher_backbone.", sequential(t)) | {"criterion.center": torch.zeros(1, 4)}}),
        "a student and its teacher": ("a teacher and a student", put("student_backbone.", other)
                                      | put("teacher_backbone.", t) | mlp("student_head.layers.", 0)),
        "byol, bolts": ("BYOL (bolts)", lightning | {"state_dict": put("online_network.encoder.", t)
                        | put("target_network.encoder.", other) | mlp("online_network.projector.model.", 0, 3)
                        | mlp("target_network.projector.model.", 0, 3) | mlp("predictor.model.", 0, 3)}),
        "byol, lucidrains": ("BYOL (lucidrains)", nets),
        "byol, lucidrains, lightning": ("BYOL (lucidrains)", lightning | {"state_dict": put("learner.", nets)}),
        "torchvision": ("torchvision", t | fc),
        "averaged model": ("torchvision", put("module.", t | fc) | {"n_averaged": torch.tensor(3)}),
        "flat, with a projector": ("torchvision", t | mlp("projector.", 0, 2)),
        "torchvision training": ("torchvision training", {"model": t | fc, "model_ema": put("module.", other | fc)
                                 | {"n_averaged": torch.tensor(3)}, "optimizer": optimizer, "lr_scheduler": {},
                                 "epoch": 9, "args": {}}),
        "timm": ("timm", run | {"state_dict": t | fc, "state_dict_ema": other | fc, "version": 2, "args": {}}),
        "timm, no average": ("timm", run | {"state_dict": t | fc}),
        "a bare trunk": ("a bare trunk", {"state_dict": put("module.", t) | mlp("module.projection_head.", 0, 2)}),
        "a backbone, compiled": ("a trunk named backbone", lightning | {"state_dict": put("backbone._orig_mod.", t)}),
        "a backbone, fully sharded": ("a trunk named backbone", {"state_dict": fully_sharded("backbone.", t)}),
        "a Sequential named backbone": ("a Sequential named backbone", {"state_dict": put("backbone.", sequential(t))
                                        | put("backbone_momentum.", sequential(other))}),
    }  # fmt: skip


def fully_sharded(prefix: str, state: State) -> State:
    """A full state dict of an FSDP module whose names kept every wrapper: around the whole and around each block."""
    inner = "_fsdp_wrapped_module._checkpoint_wrapped_module."
    parts = ((k, k.split(".")) for k in state)
    names = {k: ".".join([*p[:2], inner + ".".join(p[2:])]) if p[0].startswith("layer") else k for k, p in parts}
    return {f"_fsdp_wrapped_module.{prefix}{names[k]}": v for k, v in state.items()}
