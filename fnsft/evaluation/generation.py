"""Greedy answers in batches: the text of a prompt is the same whatever it is batched with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

# A model that goes on with the next problem has answered this one (lm-eval's stop string).
_NEXT_PROBLEM = re.compile(r"^Question:", re.MULTILINE)
_CHECK_EVERY_TOKENS = 8
_STOP_TOKENS_AT_MOST = 16  # more than a byte-level tokenizer spends on "\nQuestion:"


@dataclass(frozen=True)
class Generation:
    """An answer without its prompt and stop; ``finished`` unless the length limit cut it."""

    text: str
    finished: bool


class _StartsNextProblem(StoppingCriteria):
    """Ends a sequence soon after a line starts with ``Question:``; the text is cut later."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        new = input_ids.shape[1] - self.prompt_tokens
        if new % _CHECK_EVERY_TOKENS == 0:
            window = min(new, _CHECK_EVERY_TOKENS + _STOP_TOKENS_AT_MOST)
            tails = self.tokenizer.batch_decode(input_ids[:, -window:])
            done |= torch.tensor(["\nQuestion:" in tail for tail in tails], device=done.device)
        return done


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[Generation]:
    """Continue tokenised prompts greedily, until the end of sequence or the next problem.

    Prompts are batched by length, the longest first, so that too little memory shows at
    once, and padded on the left: positions and attention then leave the padding out, where
    padding on the right would change the text. Answers come in the prompts' order. The
    model's own generation settings (sampling, penalties) are put aside.
    """
    stops = stop_ids(model, tokenizer)
    model.eval()
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0],
    )
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers: dict[int, Generation] = {}
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="generate", unit="batch", leave=None, disable=None):
        chosen = order[start : start + batch_size]
        new_ids = _continue(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens)
        for i, ids in zip(chosen, new_ids, strict=True):
            answers[i] = _cut(tokenizer, ids, stops)
    return [answers[i] for i in range(len(prompts))]


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a text: the tokenizer's, then further ones of the model."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    candidates = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    stops = list(dict.fromkeys(i for i in candidates if i is not None))
    assert stops, "neither tokenizer nor model has an end of sequence"
    return stops


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), model.generation_config.pad_token_id)
    attended = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attended[row, longest - len(prompt) :] = 1
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=attended.to(model.device),
        max_new_tokens=max_new_tokens,
        stopping_criteria=StoppingCriteriaList([_StartsNextProblem(tokenizer, longest)]),
    )
    return output[:, longest:].tolist()


def _cut(tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: list[int]) -> Generation:
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    # What follows an early stop by text is padding, which decodes to nothing.
    text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    next_problem = _NEXT_PROBLEM.search(text)
    if next_problem:
        text = text[: next_problem.start()]
    return Generation(text, finished=end is not None or next_problem is not None)
