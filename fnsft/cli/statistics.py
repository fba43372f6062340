"""``fnsft statistics``: how often the tokens of the training split occur, and their ranks."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import StatisticsSettings

SETTINGS = StatisticsSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    parser.add_argument("--model", type=Path, required=True, help="model folder (its tokenizer)")
    parser.add_argument("--data", type=Path, required=True, help="prepared split, .jsonl")
    parser.add_argument("--output", type=Path, required=True, help="statistics, .safetensors")


def run(arguments: argparse.Namespace, settings: StatisticsSettings) -> None:
    """Tokenise, count, rank, write."""
    import numpy as np
    from transformers import AutoConfig

    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.statistics import TokenStatistics, write_statistics
    from fnsft.data.tokens import load_split_of
    from fnsft.errors import InputError
    from fnsft.neurons.frequencies import frequency_ranks

    inputs = {"model": arguments.model, "data": arguments.data}
    with recorded_stage(settings, inputs, arguments.output) as record:
        model = model_identity(arguments.model)
        config = AutoConfig.from_pretrained(arguments.model, local_files_only=True)
        split = load_split_of(arguments.model, arguments.data, settings.max_tokens)
        ids = np.concatenate([sample.ids for sample in split.samples])
        vocab_size = config.get_text_config().vocab_size
        if ids.max() >= vocab_size:
            raise InputError(
                f"{arguments.model}: expected token ids below vocab_size {vocab_size}, "
                f"found {ids.max()}: the tokenizer is another model's"
            )
        counts = np.bincount(ids, minlength=vocab_size).astype(np.int64)
        statistics = TokenStatistics(counts, frequency_ranks(counts))
        write_statistics(arguments.output, statistics, model)
        n_seen = int((counts > 0).sum())
        record.note(
            samples=len(split.samples),
            samples_left_out=split.n_left_out,
            tokens=len(ids),
            distinct_tokens=n_seen,
        )
    print(
        f"{arguments.output}: {len(ids):,} tokens, {n_seen:,} distinct, in "
        f"{len(split.samples):,} samples; {split.n_left_out} longer ones left out",
        file=sys.stderr,
    )
