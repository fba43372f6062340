"""A tokenizer and a tiny Llama, trained from scratch on the texts of a corpus.

Shapes: T = ``sequence_tokens``, B = ``batch_size``. All weights and sums are float32. On one
machine with one number of threads the same settings give the same weights, bit for bit.
"""

import math
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fnsft.config.stages import PretrainSettings
from fnsft.errors import InputError

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
# Ours, as is customary for small language models.
ADAM_BETAS = (0.9, 0.95)
MAX_GRAD_NORM = 1.0
WARMUP_STEPS = 50
FINAL_SHARE = 0.05
LOSS_POINTS = 20


@dataclass(frozen=True)
class LossPoint:
    """Mean training loss, in nats a token, of the steps since the last point."""

    step: int
    loss: float


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE in which a line break and a digit are always tokens of their own.

    A prompt that ends in a line break, and the numbers, are then cut the same way in every
    context. Text becomes its tokens alone: no beginning or end of sequence is added.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
    )


def packed_sequences(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], sequence_tokens: int
) -> Tensor:
    """Join the texts, an end of sequence after each, and cut them into sequences [n, T].

    The rest that does not fill a sequence is left out.
    """
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    ids = torch.tensor([i for text in encoded for i in (*text, tokenizer.eos_token_id)])
    n_sequences = len(ids) // sequence_tokens
    if n_sequences == 0:
        raise InputError(
            f"corpus: expected at least {sequence_tokens} tokens to fill one sequence, "
            f"found {len(ids)}; use a longer corpus or a smaller sequence_tokens"
        )
    return ids[: n_sequences * sequence_tokens].view(n_sequences, sequence_tokens)


def new_model(settings: PretrainSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Initialise a Llama with tied embeddings at random from the seed."""
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.d_model,
            num_hidden_layers=settings.n_layers,
            intermediate_size=settings.d_mlp,
            num_attention_heads=settings.n_heads,
            num_key_value_heads=settings.n_heads,
            max_position_embeddings=512,
            initializer_range=settings.initial_std,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def pretrain(
    model: LlamaForCausalLM, sequences: Tensor, settings: PretrainSettings
) -> list[LossPoint]:
    """Train ``model`` in place on ``sequences`` [n, T] and return its loss curve."""
    optimizer = new_optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_share(step, settings.steps)
    )
    every = max(1, settings.steps // LOSS_POINTS)
    curve, total = [], 0.0
    model.train()
    order = batch_order(len(sequences), settings)
    for step, rows in enumerate(tqdm(order, desc="pretrain", disable=None), start=1):
        batch = sequences[rows]  # [B, T]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % every == 0:
            curve.append(LossPoint(step, total / every))
            total = 0.0
    model.eval()
    return curve


def new_optimizer(model: LlamaForCausalLM, settings: PretrainSettings) -> torch.optim.AdamW:
    """Make AdamW that decays the matrices and leaves the norms' vectors alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=ADAM_BETAS,
        fused=True,
    )


def batch_order(n_sequences: int, settings: PretrainSettings) -> Tensor:
    """Return the rows of every step's batch [steps, B]: passes over all, each in a new order."""
    generator = torch.Generator().manual_seed(settings.seed)
    n_rows = settings.steps * settings.batch_size
    passes = [
        torch.randperm(n_sequences, generator=generator)
        for _ in range(max(1, math.ceil(n_rows / n_sequences)))
    ]
    return torch.cat(passes)[:n_rows].view(settings.steps, settings.batch_size)


def rate_share(step: int, n_steps: int) -> float:
    """Return the share of the peak learning rate at ``step`` (from 0): warm-up, then cosine."""
    warmup = min(WARMUP_STEPS, n_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, n_steps - warmup)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done))
