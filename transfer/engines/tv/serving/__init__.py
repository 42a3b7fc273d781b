"""Exports trained networks as files that run without this project: traceable networks, file formats, the proof."""
