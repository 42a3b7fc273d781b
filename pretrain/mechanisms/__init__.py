"""The mechanisms of pre-training by the name that MODEL.MECHANISM gives them; what an entry says: `Mechanism`.

The contrastive ones have the same pretext task, encoders, temperature and, unless NCE is asked for, loss. They differ
in where keys come from:

    moco          key = second view   a queue of keys, encoded by an encoder that follows the query encoder
    end_to_end    key = second view   the mini-batch itself, encoded by a second encoder that is trained too
    memory_bank   key = number        one stored feature per image, encoded when the image was last seen
    simclr        key = second view   all other views of the mini-batch, encoded by the same encoder, both ways

What they are compared with has no keys:

    supervised    key = label         one view, told apart by the class folders
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
