"""Converts checkpoints: reads any known one, renames, proves that nothing was lost, writes what Detectron2 loads."""
