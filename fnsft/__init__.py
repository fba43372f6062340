"""Choose which neurons may change when a language model is fine-tuned."""

__version__ = "0.1.0"
