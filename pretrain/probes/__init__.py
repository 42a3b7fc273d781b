"""Measures what a trunk is worth: kNN, a linear probe and a fine-tuned classifier on its features."""
