"""Holds the torchvision engine, which gives the same YAMLs, detectors and results with nothing to compile."""
