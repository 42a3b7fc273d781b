"""Turns results on disk into the table and one self-contained page; published numbers always have their source."""
