"""Answers in batches: the text of a prompt is the same whatever it is batched with.

B = sequences of a batch, V = tokens of the vocabulary.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TopPLogitsWarper,
)

_CHECK_EVERY_TOKENS = 8
_STOP_TOKENS_AT_MOST = 16  # more than a byte-level tokenizer spends on "\nQuestion:"


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


class _StartsLine(StoppingCriteria):
    """Ends a sequence soon after a line starts with a text; the answer is cut there later."""

    def __init__(self, start: str, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int) -> None:
        self.start = start
        self.tokenizer = tokenizer
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        new = input_ids.shape[1] - self.prompt_tokens
        if new % _CHECK_EVERY_TOKENS == 0:
            window = min(new, _CHECK_EVERY_TOKENS + _STOP_TOKENS_AT_MOST)
            tails = self.tokenizer.batch_decode(input_ids[:, -window:])
            started = [f"\n{self.start}" in tail for tail in tails]
            done |= torch.tensor(started, device=done.device)
        return done


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


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    ends_before: str | None = None,
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
    ends_before
        An answer also ends before a line that starts with this text.
    sampling
        Greedy when absent. A draw depends on the seed, the prompt, and how often the same prompt
        stands before it, so that equal prompts have different answers.
    streamer
        A streamer of transformers, which takes the tokens of one prompt as they come.
    """
    stops = stop_ids(model, tokenizer)
    model.eval()
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0],
    )
    seeds = _seeds(prompts, sampling.seed) if sampling else []
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers: dict[int, Generation] = {}
    starts = range(0, len(order), batch_size)
    silent = True if streamer else None
    for start in tqdm(starts, desc="generate", unit="batch", leave=None, disable=silent):
        chosen = order[start : start + batch_size]
        batch = [prompts[i] for i in chosen]
        longest = max(map(len, batch))
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "streamer": streamer}
        if ends_before:
            criterion = _StartsLine(ends_before, tokenizer, longest)
            options["stopping_criteria"] = StoppingCriteriaList([criterion])
        if sampling:
            draw = _Draw(sampling, [seeds[i] for i in chosen])
            options["logits_processor"] = LogitsProcessorList([draw])
        for i, ids in zip(chosen, _continue(model, batch, longest, options), strict=True):
            answers[i] = _cut(tokenizer, ids, stops, ends_before)
    return [answers[i] for i in range(len(prompts))]


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
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], longest: int, options: dict[str, Any]
) -> list[list[int]]:
    input_ids = torch.full((len(prompts), longest), model.generation_config.pad_token_id)
    attended = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attended[row, longest - len(prompt) :] = 1
    output = model.generate(
        input_ids=input_ids.to(model.device), attention_mask=attended.to(model.device), **options
    )
    return output[:, longest:].tolist()


def _cut(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: list[int], ends_before: str | None
) -> Generation:
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    # What follows an early stop by text is padding, which decodes to nothing.
    text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    found = ends_before and re.search(f"^{re.escape(ends_before)}", text, re.MULTILINE)
    if found:
        text = text[: found.start()]
    return Generation(text, finished=end is not None or bool(found))
