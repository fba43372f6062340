"""Training: a base model from scratch, fine-tuning with masks, checkpoints that resume."""
