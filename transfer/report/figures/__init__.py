"""The figures of pages: charts of rows and of classes, and test images with what was found on them, as SVG."""
