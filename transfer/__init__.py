"""Transfer: convert a pre-trained trunk, fine-tune the papers' detectors on it, evaluate, and compare over trials."""
