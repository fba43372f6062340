"""Formats, prompts, splits and the synthetic world: texts in, texts and token ids out."""
