"""``fnsft generate``: a model's answers to prompts, to try it."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.stages import GenerateSettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.evaluation.generation import Generation
    from fnsft.evaluation.prompts import Prompt

SETTINGS = GenerateSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the model, where prompts come from, and where answers go."""
    parser.add_argument("model", help="model or adapter folder, or a name on the hub")
    parser.add_argument("--model-revision", default="main", metavar="TEXT", help="on the hub")
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument("--prompt", nargs="+", metavar="TEXT", help="prompts, each a text")
    sources.add_argument(
        "--file",
        type=Path,
        help="prompts: lines of a .txt, or rows with a prompt and perhaps a context in .jsonl "
        "(a prepared split with --template none); without --prompt and --file all that comes in "
        "is one prompt",
    )
    parser.add_argument("--output", type=Path, help="answers, .jsonl (default: printed)")


def run(arguments: argparse.Namespace, settings: GenerateSettings) -> None:
    """Read the prompts, write them as in training, answer, print or write the answers."""
    if settings.temperature == 0 and (settings.samples > 1 or settings.top_p < 1):
        raise InputError(
            "temperature: expected a value above 0 with samples or top_p, found 0: greedy answers "
            "are all alike; give --temperature"
        )
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import write_jsonl
    from fnsft.hub.models import local_model

    prompts = prompts_of(arguments)
    folder = local_model(arguments.model, arguments.model_revision)
    if arguments.output is None:
        answers = answer(folder, prompts, settings, shown=True)
    else:
        inputs = {"model": folder} | ({"prompts": arguments.file} if arguments.file else {})
        with recorded_stage(settings, inputs, arguments.output) as record:
            answers = answer(folder, prompts, settings)
            asked = [prompt.prompt for prompt in prompts for _ in range(settings.samples)]
            rows = [
                {"prompt": text} | vars(found) for text, found in zip(asked, answers, strict=True)
            ]
            write_jsonl(arguments.output, rows)
            record.note(prompts=len(prompts), answers_cut_by_max_new_tokens=n_cut(answers))
    print(
        f"{arguments.output or folder}: {len(answers)} answers to {len(prompts)} prompts; "
        f"{n_cut(answers)} cut by max_new_tokens={settings.max_new_tokens}",
        file=sys.stderr,
    )


def prompts_of(arguments: argparse.Namespace) -> "list[Prompt]":
    """Return the prompts that were given, in a file or as what comes in."""
    from fnsft.evaluation.prompts import Prompt, read_prompts

    if arguments.prompt:
        return [Prompt(text) for text in arguments.prompt]
    if arguments.file:
        return read_prompts(arguments.file)
    if sys.stdin.isatty():
        print("a prompt, then Ctrl-D on a line of its own:", file=sys.stderr)
    return [Prompt(sys.stdin.read().rstrip("\n"))]


def answer(
    folder: Path, prompts: "list[Prompt]", settings: GenerateSettings, shown: bool = False
) -> "list[Generation]":
    """Answer every prompt ``samples`` times; ``shown``: print, on a terminal token by token."""
    from transformers import TextStreamer

    from fnsft.data.tokens import load_tokenizer, positions_of
    from fnsft.evaluation.generation import Sampling, generate
    from fnsft.evaluation.loading import load_model
    from fnsft.evaluation.prompts import encode_prompts, format_of
    from fnsft.training.merging import adapter_base

    tokenizer = load_tokenizer(folder)
    format = format_of(folder, tokenizer, settings)
    # Before the model loads, so that a bad prompt costs no time.
    positions = positions_of(adapter_base(folder) or folder)
    room = None if positions is None else positions - settings.max_new_tokens
    ids = encode_prompts(prompts, format, tokenizer, room)
    model = load_model(folder, settings.dtype, settings.forward_mask)
    ids = [prompt for prompt in ids for _ in range(settings.samples)]
    streams = shown and len(ids) == 1 and sys.stdout.isatty()
    sampling = Sampling(settings.temperature, settings.top_p, settings.seed)
    answers = generate(
        model,
        tokenizer,
        ids,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        sampling=sampling if settings.temperature else None,
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        if streams
        else None,
    )
    if shown and not streams:
        print("\n\n".join(found.text for found in answers))
    return answers


def n_cut(answers: "list[Generation]") -> int:
    """Count the answers that the length limit cut."""
    return sum(not found.finished for found in answers)
