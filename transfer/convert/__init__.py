"""Checkpoints: read any that is known, rename, prove that nothing was lost, write what Detectron2 loads."""
