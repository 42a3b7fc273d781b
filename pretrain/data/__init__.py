"""Holds the data of pre-training: where images lie, in which order they come, and how views are made of them."""
