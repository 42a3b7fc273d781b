"""Pre-trains with MoCo: holds the algorithm, its data and its training loop. Never imports `transfer` or Detectron2."""
