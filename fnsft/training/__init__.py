"""Training: a base model from scratch, fine-tuning with masks, checkpoints that resume."""

import logging

# Peft imports bitsandbytes, which warns of kernels for the CPU that are not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
