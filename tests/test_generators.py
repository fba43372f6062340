"""Generation: texts that no batch changes, where they end, and what leaves a batch."""

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA
from models import force
from transformers import AutoConfig, AutoModelForCausalLM

from fnsft.data.tokens import load_tokenizer
from fnsft.evaluation.generation import Generation, Sampling, generate
from fnsft.evaluation.generators import generator_of
from fnsft.evaluation.loading import load_model

LONGEST = 34  # two whole segments and a part
TIE = 1e-4  # logits this close are equal but for rounding, which depends on the batch


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "models" / "stories260k"


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder, "float32").cpu()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def random_prompts(n: int, vocabulary: int) -> list[list[int]]:
    numbers = random.Random(0)
    return [
        [numbers.randrange(3, vocabulary) for _ in range(numbers.randrange(1, 30))]
        for _ in range(n)
    ]


def likeliest(model: Any, prompt: list[int], end: int) -> tuple[list[int], float]:
    """The likeliest tokens one by one, without a cache, a batch or stops; the closest choice."""
    ids, margin = list(prompt), math.inf
    while len(ids) < len(prompt) + LONGEST and ids[-1] != end:
        with torch.no_grad():
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[len(prompt) :], margin


@dataclass(frozen=True)
class Reference:
    """Prompts, and the texts that they go on with."""

    prompts: list[list[int]]
    texts: list[str]


@pytest.fixture(scope="module")
def alone(model: Any, tokenizer: Any) -> Reference:
    found = Reference([], [])
    for prompt in random_prompts(20, len(tokenizer)):
        ids, margin = likeliest(model, prompt, tokenizer.eos_token_id)
        if margin > TIE:
            found.prompts.append(prompt)
            found.texts.append(tokenizer.decode(ids, skip_special_tokens=True))
    assert len(found.prompts) > 15
    return found


def cut(text: str, stops: tuple[str, ...]) -> str:
    return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]


@pytest.mark.parametrize("batch_size", [6, 20])
def test_text_depends_on_no_batch_though_answers_end_one_after_another(
    model: Any, tokenizer: Any, alone: Reference, batch_size: int
) -> None:
    answer = generator_of("hf", model, tokenizer, batch_size)
    assert answer.name == "hf"
    whole = answer(alone.prompts, max_new_tokens=LONGEST)
    assert [answer.text for answer in whole] == alone.texts
    stops = (alone.texts[0][8:10], alone.texts[1][20:23], alone.texts[2][-4:], "never said")
    found = answer(alone.prompts, max_new_tokens=LONGEST, stops=stops)
    expected = [cut(text, stops) for text in alone.texts]
    assert [answer.text for answer in found] == expected
    assert len({len(text) for text in expected}) > 5, "answers should end at many places"
    assert {answer.finished for answer in found} == {True, False}


def test_an_answer_ends_before_a_stop_that_begins_and_ends_within_tokens(
    model: Any, tokenizer: Any, alone: Reference
) -> None:
    for prompt, text in zip(alone.prompts[:3], alone.texts[:3], strict=True):
        for start in range(3, len(text) - 4, 13):
            stop = text[start : start + 4]
            options = {"batch_size": 1, "max_new_tokens": LONGEST, "stops": (stop,)}
            (found,) = generate(model, tokenizer, [prompt], **options)
            assert found == Generation(text[: text.find(stop)], finished=True)


def test_an_answer_ends_before_the_first_of_several_stops(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    model = load_model(tiny_model_dir, "float32").cpu()
    force(model, [*tokenizer("a\nb")["input_ids"], tokenizer.eos_token_id])
    options = {"batch_size": 2, "max_new_tokens": 24}
    for stops, text in (((), "a\nb"), (("b", "a\n"), ""), (("c", "b", "\nb"), "a")):
        found = generate(model, tokenizer, [[5], [5]], stops=stops, **options)
        assert found == [Generation(text, finished=True)] * 2


def test_an_answer_is_finished_unless_its_length_cut_it(tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    model = load_model(tiny_model_dir, "float32").cpu()
    forced = [*tokenizer("x" * 19)["input_ids"], tokenizer.eos_token_id]
    force(model, forced)
    for most, finished in ((len(forced) - 1, False), (len(forced), True), (64, True)):
        options = {"batch_size": 1, "max_new_tokens": most}
        (found,) = generate(model, tokenizer, [[5]], **options)
        assert found == Generation("x" * 19, finished)


def test_sequences_that_have_ended_leave_the_batch(
    model: Any, tokenizer: Any, alone: Reference
) -> None:
    sizes = []

    def record(module: Any, inputs: Any, options: Any) -> None:
        sizes.append(len(options["input_ids"]))

    handle = model.register_forward_pre_hook(record, with_kwargs=True)
    stops = [text[4:7] for text in alone.texts[:10]]
    generate(model, tokenizer, alone.prompts, batch_size=20, max_new_tokens=LONGEST, stops=stops)
    handle.remove()
    assert (len(sizes), sizes[0]) == (LONGEST, len(alone.prompts))
    assert 0 < sizes[-1] < len(alone.prompts) - 9


def test_draws_depend_on_no_batch_though_answers_end_one_after_another(
    model: Any, tokenizer: Any, alone: Reference
) -> None:
    def drawn(batch_size: int) -> list[str]:
        options = {"max_new_tokens": LONGEST, "stops": ("a", "ou"), "sampling": Sampling(1.0)}
        found = generate(model, tokenizer, alone.prompts, batch_size=batch_size, **options)
        return [answer.text for answer in found]

    found = drawn(20)
    assert found == drawn(1)
    assert len(set(map(len, found))) > 5


SHAPE = {name: LLAMA[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size")}
CACHES: dict[str, dict[str, Any]] = {
    "mistral": LLAMA | {"sliding_window": 8},
    "gemma3_text": LLAMA | {"head_dim": 8, "sliding_window": 8},
    "qwen3_next": LLAMA
    | {
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "mamba": SHAPE | {"state_size": 8},
}


@pytest.mark.parametrize("family", CACHES)
def test_every_kind_of_cache_goes_on_with_the_sequences_that_stay(
    tiny_model_dir: Path, family: str
) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    given = CACHES[family] | {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 2}
    given |= {"initializer_range": 0.3, "max_position_embeddings": 256}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **given)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    # Of one length: a state space model takes padding for text, with or without us.
    prompts = [[3 + i, 40 + i, 90 + i] for i in range(4)]

    def texts(batch_size: int, stops: tuple[str, ...] = ()) -> list[str]:
        options = {"batch_size": batch_size, "max_new_tokens": LONGEST, "stops": stops}
        return [found.text for found in generate(model, tokenizer, prompts, **options)]

    found = [likeliest(model, prompt, tokenizer.eos_token_id) for prompt in prompts]
    assert min(margin for _, margin in found) > TIE
    whole = [tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in found]
    stops = (whole[0][2:5], whole[3][4:7])
    assert texts(4) == whole
    assert texts(4, stops) == [cut(text, stops) for text in whole]
    assert len(set(whole)) == 4


def test_no_prompt_has_no_answer(model: Any, tokenizer: Any) -> None:
    assert generate(model, tokenizer, [], batch_size=4, max_new_tokens=8) == []
