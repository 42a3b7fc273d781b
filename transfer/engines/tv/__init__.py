"""The torchvision engine: the same YAMLs, detectors and results with nothing to compile."""
