"""Where images lie, in which order they come, and what is made of them: files, labels, views."""
