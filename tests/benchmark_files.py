"""Items of benchmarks for tests, some of which a model answers right."""

from decimal import Decimal
from pathlib import Path

from fnsft.artifacts.storage import write_jsonl
from fnsft.data.tokens import load_tokenizer
from fnsft.evaluation.generation import generate
from fnsft.evaluation.gsm8k import decimal_answer
from fnsft.evaluation.loading import load_model

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")
MAX_NEW_TOKENS = 24


def write_benchmark_files(folder: Path, model: Path, n: int = 24) -> dict[str, Path]:
    """Write a file of n items for each kind whose answers need no sandbox.

    Some problems and questions have the answer that the model in ``model`` gives.
    """
    prompts = [
        f"Question: {NAMES[i % 8]} has {i} apples{' and more' * (i % 5)}.\nAnswer:"
        for i in range(n)
    ]
    texts = _texts(model, prompts)
    write_jsonl(
        folder / "math.jsonl",
        [
            {"prompt": prompt, "completion": _worked(text, right=i % 3 > 0, steps=1 + i % 3)}
            for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ],
    )
    write_jsonl(
        folder / "words.jsonl",
        [
            {"prompt": prompt, "completion": text if i % 2 and text.strip() else " apples"}
            for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ],
    )
    write_jsonl(
        folder / "facts.jsonl",
        [
            {
                "prompt": f"{NAMES[i % 8]} is",
                "choices": [" old", " ten years old", " a cat", " in the garden"],
                "answer": i % 4,
                "subject": "age" if i % 3 else "place",
            }
            for i in range(n)
        ],
    )
    return {
        "gsm8k": folder / "math.jsonl",
        "exact": folder / "words.jsonl",
        "cloze": folder / "facts.jsonl",
        "perplexity": folder / "math.jsonl",
    }


def benchmark_words(files: dict[str, Path], *more: str) -> list[str]:
    """Return the flags of ``fnsft answer`` for files by kind, the kind's name with an x."""
    words: list[str] = []
    for kind, file in files.items():
        words += ["--benchmark", f"{kind}-x", f"kind={kind}", f"file={file}", *more]
    return words


def _texts(model: Path, prompts: list[str]) -> list[str]:
    tokenizer = load_tokenizer(model)
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    options = {"batch_size": 8, "max_new_tokens": MAX_NEW_TOKENS}
    loaded = load_model(model, "float32")
    return [found.text for found in generate(loaded, tokenizer, ids, **options)]


def _worked(text: str, right: bool, steps: int) -> str:
    number = decimal_answer(text) or Decimal(3)
    annotated = " <<1+1=2>>" * steps
    return f"{annotated}\n#### {number if right else number + 1}"
