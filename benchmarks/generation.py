"""What answering costs, against lm-eval's ``hf`` backend on the same model and items.

    python benchmarks/generation.py MODEL gsm8k/test.jsonl [--items 24] [--dtype float32]

Greedy answers to the first GSM8K problems, without shots, in the tokenizer's chat template where it
has one, up to ``Question:`` or the end of sequence. Both sides share one process, one loaded model,
its device and the texts of the prompts, and take turns; tokenising counts. On the CPU seconds are
the processor's, of all threads, so that what else the machine does counts little; elsewhere those
of the clock. lm-eval checks for its stops after every token and keeps what has ended in the batch.
The last line is one JSON object:

``speedup_vs_lm_eval_batch_1``, ``speedup_vs_lm_eval_best``
    Seconds of lm-eval, at batch size 1 and at its fastest, over ours at our fastest of the same
    ``--batch-sizes``.
``texts_equal_to_lm_eval_batch_1``
    For every batch size of ours the share of texts that are lm-eval's at batch size 1. Less
    than 1 means logits that are equal up to rounding: the spread, which ``--dtype bfloat16``
    shows on a GPU.
``tokens``
    Of our answers, stops not counted.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graph import say


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="GSM8K problems, .jsonl with question")
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 24, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    print(json.dumps(measure(parser.parse_args())))


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Return what the last line holds."""
    import torch

    from fnsft.data.tokens import load_tokenizer
    from fnsft.evaluation.loading import load_model

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    tokenizer = load_tokenizer(arguments.model)
    model = load_model(arguments.model, arguments.dtype)
    prompts = read_prompts(arguments.data, tokenizer, arguments.items)
    own = our_side(model, tokenizer, prompts, arguments.max_new_tokens)
    theirs = lm_eval_side(model, tokenizer, prompts, arguments.max_new_tokens)
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    our_side(model, tokenizer, prompts[:2], 4)(2)  # memory is taken and kernels are chosen

    def timed(side: Callable[[int], list[str]], name: str, size: int) -> list[str]:
        start = clock()
        texts = side(size)
        seconds[name][size] = round(clock() - start, 2)
        say(f"{name}, batch size {size}: {seconds[name][size]} s")
        return texts

    seconds: dict[str, dict[int, float]] = {"ours": {}, "lm-eval": {}}
    found: dict[int, list[str]] = {}
    reference = timed(theirs, "lm-eval", 1)
    for size in arguments.batch_sizes:
        found[size] = timed(own, "ours", size)
        timed(theirs, "lm-eval", size)
    best = {side: min(seconds[side], key=lambda size: seconds[side][size]) for side in seconds}
    fastest = seconds["ours"][best["ours"]]
    texts = found[best["ours"]]
    return {
        "model": arguments.model.name,
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "items": len(prompts),
        "max_new_tokens": arguments.max_new_tokens,
        "tokens": sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])),
        "seconds": seconds["ours"],
        "lm_eval_seconds": seconds["lm-eval"],
        "best_batch_size": best["ours"],
        "lm_eval_best_batch_size": best["lm-eval"],
        "speedup_vs_lm_eval_batch_1": round(seconds["lm-eval"][1] / fastest, 2),
        "speedup_vs_lm_eval_best": round(seconds["lm-eval"][best["lm-eval"]] / fastest, 2),
        "texts_equal_to_lm_eval_batch_1": {
            size: equal(texts, reference) for size, texts in found.items()
        },
    }


def read_prompts(path: Path, tokenizer: Any, n: int) -> list[str]:
    """Return the first problems as texts that a model goes on with."""
    rows = [json.loads(line) for line in path.read_text().splitlines()[:n]]
    if not tokenizer.chat_template:
        return [f"Question: {row['question']}\nAnswer:" for row in rows]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for row in rows
    ]


def our_side(
    model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int
) -> Callable[[int], list[str]]:
    """Return what answers at a batch size."""
    from fnsft.evaluation.generators import generator_of

    def answer(batch_size: int) -> list[str]:
        generate = generator_of("hf", model, tokenizer, batch_size)
        ids = tokenizer(prompts)["input_ids"]
        found = generate(ids, max_new_tokens=max_new_tokens, stops=("Question:",))
        return [generation.text for generation in found]

    return answer


def lm_eval_side(
    model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int
) -> Callable[[int], list[str]]:
    """Return what answers at a batch size by lm-eval."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    options = {"until": ["Question:"], "max_gen_toks": max_new_tokens, "do_sample": False}

    def answer(batch_size: int) -> list[str]:
        side = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        requests = [
            Instance("generate_until", {}, (prompt, dict(options)), place)
            for place, prompt in enumerate(prompts)
        ]
        return side.generate_until(requests, disable_tqdm=True)

    return answer


def equal(texts: list[str], others: list[str]) -> float:
    """Return the share of texts that are equal."""
    return sum(a == b for a, b in zip(texts, others, strict=True)) / len(texts)


if __name__ == "__main__":
    main()
