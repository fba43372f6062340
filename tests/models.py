"""Tiny real models for tests."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = (
    "Question: Ada has 3 apples and buys 14 more. How many apples does Ada have?\nAnswer:",
    " She has 3 + 14 = <<3+14=17>>17 apples.\n#### 17",
    "Instruction: Write a function that returns the sum of two numbers.\nResponse:\n",
    "def add(a, b):\n    return a + b\n",
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 tokens that adds nothing around a text and never fails."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
    )


def write_tiny_model(folder: Path, seed: int = 0) -> None:
    """Write a random Llama (2 layers, d_model 32, d_mlp 64) and its tokenizer."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def force(model: Any, ids: list[int], n_prompt: int = 1) -> None:
    """Make every answer of a model these tokens again and again, whatever its prompt."""

    def say(module: Any, inputs: Any, options: Any, output: Any) -> Any:
        place = (options["position_ids"][0, -1].item() - n_prompt + 1) % len(ids)
        output.logits[:] = 0
        output.logits[:, -1, ids[place]] = 1
        return output

    model.register_forward_hook(say, with_kwargs=True)
