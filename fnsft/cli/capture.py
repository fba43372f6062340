"""``fnsft capture``: which neurons every token of the training split activates."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import CaptureSettings

SETTINGS = CaptureSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--data", type=Path, required=True, help="prepared split, .jsonl")
    parser.add_argument("--output", type=Path, required=True, help="folder of the activations")


def run(arguments: argparse.Namespace, settings: CaptureSettings) -> None:
    """Tokenise, make sure that the disk can hold the bits, and record them."""
    import numpy as np

    from fnsft.architectures import graph_shape
    from fnsft.artifacts.activations import DumpShape, DumpWriter, write_dump_tokens
    from fnsft.artifacts.identity import model_identity
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import require_space, size_in_words, written_whole
    from fnsft.data.tokens import load_split_of
    from fnsft.evaluation.loading import load_model
    from fnsft.neurons.capture import capture_dump

    inputs = {"model": arguments.model, "data": arguments.data}
    with recorded_stage(settings, inputs, arguments.output) as record:
        identity = model_identity(arguments.model)
        split = load_split_of(arguments.model, arguments.data, settings.max_tokens)
        model = load_model(arguments.model, settings.dtype)
        samples = [sample.ids for sample in split.samples]
        n_layers, width = graph_shape(model, settings.neurons)
        shape = DumpShape(n_layers, width, split.n_tokens, settings.sampled_tokens)
        with written_whole(arguments.output) as folder:
            folder.mkdir()
            require_space(arguments.output, shape.n_bytes)
            print(f"{arguments.output}: {size_in_words(shape.n_bytes)} to write", file=sys.stderr)
            offsets = np.cumsum([0, *map(len, samples)])
            token_ids = np.concatenate(samples)
            write_dump_tokens(folder, shape, token_ids, offsets, identity, settings.neurons)
            with DumpWriter(folder, shape, identity) as writer:
                capture_dump(model, samples, settings.batch_size, writer, settings.neurons)
        record.note(
            samples=len(samples),
            samples_left_out=split.n_left_out,
            tokens=shape.n_tokens,
            sampled_tokens=len(shape.sampled_tokens),
            block_tokens=shape.block_tokens,
            bytes=shape.n_bytes,
        )
    print(
        f"{arguments.output}: {shape.n_tokens:,} tokens, {shape.n_layers} layers of "
        f"{shape.d_mlp:,} neurons; {split.n_left_out} longer samples left out",
        file=sys.stderr,
    )
