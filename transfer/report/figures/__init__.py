"""Draws the figures of pages as SVG: charts of rows and of classes, and test images with what was found on them."""
