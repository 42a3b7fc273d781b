"""Files of trained networks that run without this project: the networks as they are traced, the formats, the proof."""
