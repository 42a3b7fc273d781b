"""What both halves share: processes, seeds, logs, checkpoints, provenance, results. The only part `transfer` may import."""
