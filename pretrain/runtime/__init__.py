"""Holds what both halves share: processes, seeds, logs, checkpoints, results. `transfer` may import no other part."""
