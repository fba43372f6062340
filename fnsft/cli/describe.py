"""``fnsft describe``: what every MLP neuron responds to, in words."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fnsft.config.stages import DescribeSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fnsft.artifacts.descriptions import Description

SETTINGS = DescribeSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="prepared split, .jsonl: describe them by it")
    source.add_argument(
        "--database",
        type=Path,
        help="published descriptions, .parquet, .jsonl or .jsonl.gz: import them",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="descriptions, .jsonl or .jsonl.gz"
    )


def run(arguments: argparse.Namespace, settings: DescribeSettings) -> None:
    """Describe the neurons by their own activations, or take over what others wrote."""
    from fnsft.artifacts.descriptions import write_descriptions
    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.errors import InputError

    if not arguments.output.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(
            f"{arguments.output}: expected a name that ends in .jsonl or .jsonl.gz; rename it"
        )
    published = arguments.database is not None
    name = "database" if published else "data"
    inputs = {"model": arguments.model, name: getattr(arguments, name)}
    with recorded_stage(settings, inputs, arguments.output) as record:
        identity = model_identity(arguments.model)
        describe = _imported if published else _described
        descriptions, notes = describe(arguments, settings)
        seen: list[float] = []

        def counted() -> "Iterable[Description]":
            for description in descriptions:
                seen.append(description.score)
                yield description

        source = "database" if published else "activations"
        write_descriptions(arguments.output, counted(), identity, source)  # type: ignore[arg-type]
        above = [score for score in seen if score > 0]
        mean = sum(above) / len(above) if above else 0.0
        record.note(descriptions=len(seen), scored_above_0=len(above), mean_score=mean, **notes)
    invalid = f"; {notes['invalid']:,} without a text or a score score 0" if published else ""
    print(
        f"{arguments.output}: {len(seen):,} descriptions, {len(above):,} that score above 0, "
        f"{mean:.2f} on average{invalid}",
        file=sys.stderr,
    )


def _described(
    arguments: argparse.Namespace, settings: DescribeSettings
) -> "tuple[Iterable[Description], dict[str, Any]]":
    """Find the top tokens of every neuron in the data."""
    from fnsft.data.tokens import load_split_of, load_tokenizer
    from fnsft.evaluation.loading import load_model
    from fnsft.neurons.descriptions import descriptions_of, find_tokens

    split = load_split_of(arguments.model, arguments.data, settings.max_tokens)
    samples = [sample.ids for sample in split.samples[: settings.samples]]
    found = find_tokens(load_model(arguments.model, settings.dtype), samples, settings)
    tokenizer = load_tokenizer(arguments.model)
    notes = {
        "samples": len(samples),
        "samples_left_out": split.n_left_out,
        "tokens": sum(map(len, samples)),
        "neurons_without_activation": dict(zip(("+", "-"), found.without_activation, strict=True)),
        "scored_0_without_variance": found.without_variance,
    }
    return descriptions_of(found, tokenizer, settings.n_contexts), notes


def _imported(
    arguments: argparse.Namespace, settings: DescribeSettings
) -> "tuple[Iterable[Description], dict[str, Any]]":
    """Read a published database; of the model its shape is needed, no weight."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from fnsft.architectures import site_widths
    from fnsft.neurons.published import read_published

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(arguments.model, local_files_only=True)
        widths = site_widths(AutoModelForCausalLM.from_config(config))["intermediate"]
    found = read_published(arguments.database, widths, settings.columns)
    notes = {"invalid": found.n_invalid, "neurons": sum(widths)}
    return found.descriptions, notes
