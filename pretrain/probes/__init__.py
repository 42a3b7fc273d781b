"""What a trunk is worth: kNN, linear probe and fine-tuned classifier on its features."""
