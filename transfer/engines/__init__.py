"""Holds two engines behind one contract: `base` states it, `select` chooses, `d2` and `tv` each fulfil it alone."""

import logging
import warnings

# What fvcore and Detectron2 ask of a torch newer than they are; nobody who trains can do anything about it.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", r"torch\.meshgrid: in an upcoming release", UserWarning)
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # asks for a name of torch 2.15
