"""What both halves share: processes, seeds, logs, checkpoints, results. The only part `transfer` may import."""
