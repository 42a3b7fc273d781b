"""Lists what Detectron2's registries hold, by the config key that names one of their entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from detectron2.modeling.meta_arch.semantic_seg import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.proposal_generator import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY

from transfer.config.lint import NAMES
from transfer.config.support import DENSEPOSE_HEADS
from transfer.engines.d2.register import register_parts

_REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
}
_UNREGISTERED = {
    "MODEL.PROPOSAL_GENERATOR.NAME": ("PrecomputedProposals",),
    "MODEL.ROI_BOX_HEAD.NAME": ("",),
    "MODEL.ROI_HEADS.NAME": (DENSEPOSE_HEADS,),  # by DensePose's project, once something needs it
}
_DENSEPOSE = "MODEL.ROI_DENSEPOSE_HEAD.NAME"


def part_names() -> Mapping[str, Collection[str]]:
    """Returns for each key the names that it may have, this project's heads and the user's own parts included."""
    register_parts()
    own = {_DENSEPOSE: NAMES[_DENSEPOSE]}
    return own | {key: (*(n for n, _ in r), *_UNREGISTERED.get(key, ())) for key, r in _REGISTRIES.items()}
