"""MoCo pre-training: the algorithm, its data, its loop. Never imports `transfer` or Detectron2."""
