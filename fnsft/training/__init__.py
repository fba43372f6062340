"""Training: a base model from scratch, fine-tuning with masks, checkpoints that resume."""

import logging
import warnings

# Peft imports bitsandbytes, which warns of kernels for the CPU that are not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# TRL and PEFT ask for it by a name that transformers has replaced.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
