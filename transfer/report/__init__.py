"""From results on disk to the table and one self-contained page; published numbers always with their source."""
