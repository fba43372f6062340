"""Answers in batches: the text of a prompt is the same whatever it is batched with.

But for ties: logits that are equal up to the rounding of their dtype may change places with the
size of a batch, which in float32 is rare and in bfloat16 is not (``benchmarks/generation.py``).

B = sequences of a batch, V = tokens of the vocabulary.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TopPLogitsWarper,
)

_SEGMENT_TOKENS = 16  # after these, sequences that have ended leave the batch


@dataclass(frozen=True)
class Generation:
    """An answer without its prompt and stop; ``finished`` unless the length limit cut it."""

    text: str
    finished: bool


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: ``temperature`` > 0, and the share ``top_p`` of the probability."""

    temperature: float
    top_p: float = 1.0
    seed: int = 0


class _Draw(LogitsProcessor):
    """Makes the likeliest token a draw: argmax(logits / T + Gumbel noise) is one (Gumbel 1954).

    Each sequence has random numbers of its own, where sampling by torch would share them out
    over the batch.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.temperature = sampling.temperature
        self.top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 else None
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores [B, V] whose largest entry in each row is the token drawn."""
        # The largest becomes 0 first: a small temperature would overflow it.
        scores = (scores - scores.amax(-1, keepdim=True)) / self.temperature
        if self.top_p is not None:
            scores = self.top_p(input_ids, scores)
        noise = [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self.generators]
        return scores - torch.stack(noise).log().to(scores.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some sequences of the batch."""
        self.generators = [self.generators[row] for row in rows]


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    stops: Sequence[str] = (),
    sampling: Sampling | None = None,
    streamer: Any = None,
) -> list[Generation]:
    """Continue tokenised prompts until the end of sequence.

    Prompts are batched by length, the longest first, so that too little memory shows at
    once, and padded on the left: positions and attention then leave the padding out, where
    padding on the right would change the text. Answers come in the prompts' order. The
    model's own generation settings (sampling, penalties) are put aside.

    Parameters
    ----------
    stops
        An answer also ends before the first of these texts, which is looked for in its whole
        text, so that it does not matter how tokens cut it.
    sampling
        Greedy when absent. A draw depends on the seed, the prompt, and how often the same prompt
        stands before it, so that equal prompts have different answers.
    streamer
        A streamer of transformers, which takes the tokens of one prompt as they come.
    """
    assert all(stops), "an empty stop would end every answer at once"
    end_ids = use_greedily(model, tokenizer)
    seeds = _seeds(prompts, sampling.seed) if sampling else []
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers: dict[int, Generation] = {}

    def cut(ids: list[int]) -> Generation:
        return _cut(tokenizer, ids, end_ids, stops)

    starts = range(0, len(order), batch_size)
    silent = True if streamer else None
    for start in tqdm(starts, desc="generate", unit="batch", leave=None, disable=silent):
        chosen = order[start : start + batch_size]
        draw = _Draw(sampling, [seeds[i] for i in chosen]) if sampling else None
        batch = [prompts[i] for i in chosen]
        answers |= zip(
            chosen, _continue(model, batch, max_new_tokens, cut, draw, streamer), strict=True
        )
    return [answers[i] for i in range(len(prompts))]


def use_greedily(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Put a model's own generation settings aside; return the ids that end a text."""
    ends = stop_ids(model, tokenizer)
    model.eval()
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
    )
    return ends


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a text: the tokenizer's, then further ones of the model."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    candidates = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    stops = list(dict.fromkeys(i for i in candidates if i is not None))
    assert stops, "neither tokenizer nor model has an end of sequence"
    return stops


def _seeds(prompts: Sequence[Sequence[int]], seed: int) -> list[int]:
    """Return a seed for every prompt that is the same whatever other prompts stand with it."""
    seen: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for prompt in map(tuple, prompts):
        digest = hashlib.sha256(repr((seed, prompt, seen[prompt])).encode()).digest()
        seeds.append(int.from_bytes(digest[:8]) >> 1)
        seen[prompt] += 1
    return seeds


def _continue(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    cut: Callable[[list[int]], Generation],
    draw: _Draw | None,
    streamer: Any,
) -> list[Generation]:
    """Continue one batch in segments; what has ended leaves it, and its cache, between two."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), model.generation_config.pad_token_id)
    attended = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attended[row, longest - len(prompt) :] = 1
    ids, attended = ids.to(model.device), attended.to(model.device)
    # A streamer takes each call of generate for a text of its own.
    segment = max_new_tokens if streamer else _SEGMENT_TOKENS
    processors = LogitsProcessorList([draw] if draw else [])
    found: dict[int, Generation] = {}
    live = list(range(len(prompts)))
    cache: Cache | None = None
    while live:
        output = model.generate(
            input_ids=ids,
            attention_mask=attended,
            past_key_values=cache,
            max_new_tokens=min(segment, max_new_tokens - (ids.shape[1] - longest)),
            logits_processor=processors,
            streamer=streamer,
            return_dict_in_generate=True,
        )
        made = output.sequences[:, longest:].tolist()
        answers = dict(zip(live, map(cut, made), strict=True))
        at_limit = len(made[0]) >= max_new_tokens
        found |= {i: answer for i, answer in answers.items() if at_limit or answer.finished}
        rows = [row for row, i in enumerate(live) if i not in found]
        live = [live[row] for row in rows]
        kept = torch.tensor(rows, dtype=torch.long, device=ids.device)
        ids, attended = output.sequences[kept], attended[kept]
        attended = torch.nn.functional.pad(attended, (0, ids.shape[1] - attended.shape[1]), value=1)
        # Without a cache (state space models name theirs otherwise) all is computed anew.
        cache = getattr(output, "past_key_values", None)
        if cache is not None and len(rows) < len(made):
            cache.reorder_cache(kept)
        if draw:
            draw.keep(rows)
    return [found[i] for i in range(len(prompts))]


def _cut(
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    end_ids: list[int],
    stops: Sequence[str],
) -> Generation:
    """Return the text of new tokens up to the first end, which is a token or a text."""
    end = next((place for place, token in enumerate(ids) if token in end_ids), None)
    # What follows the end is padding; a text's end may stand anywhere in a segment.
    text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    found = re.search("|".join(map(re.escape, stops)), text) if stops else None
    if found:
        text = text[: found.start()]
    return Generation(text, finished=end is not None or found is not None)
