"""Lists the pre-training mechanisms by the name that MODEL.MECHANISM gives them. Each entry is a `Mechanism`.

The contrastive mechanisms share the pretext task, the encoders, the temperature and, unless NCE is asked for, the loss.
They differ in where the keys come from:

    moco          key = second view   a queue of keys, encoded by an encoder that follows the query encoder
    end_to_end    key = second view   the mini-batch itself, encoded by a second encoder that is trained too
    memory_bank   key = number        one stored feature per image, encoded when the image was last seen
    simclr        key = second view   all other views of the mini-batch, encoded by the same encoder, both ways

The mechanism that they are compared with has no keys:

    supervised    key = label         one view, classified by the labels of the training set
"""

from pretrain.mechanisms.base import Mechanism
from pretrain.mechanisms.end_to_end import END_TO_END
from pretrain.mechanisms.memory_bank import MEMORY_BANK
from pretrain.mechanisms.momentum import MOCO
from pretrain.mechanisms.simclr import SIMCLR
from pretrain.mechanisms.supervised import SUPERVISED

MECHANISMS: dict[str, Mechanism] = {
    "moco": MOCO,
    "end_to_end": END_TO_END,
    "memory_bank": MEMORY_BANK,
    "simclr": SIMCLR,
    "supervised": SUPERVISED,
}
