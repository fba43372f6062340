"""``fnsft twin``: a random-initialised model of the same shape, a control."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import TwinSettings

SETTINGS = TwinSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the model and its twin."""
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--output", type=Path, required=True, help="folder of the twin")


def run(arguments: argparse.Namespace, settings: TwinSettings) -> None:
    """Draw the weights as the architecture does, and copy the tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import existing, written_whole
    from fnsft.data.tokens import load_tokenizer
    from fnsft.errors import InputError

    folder = existing(arguments.model)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: expected a config.json, found none; name a model folder")
    with recorded_stage(settings, {"model": folder}, arguments.output):
        tokenizer = load_tokenizer(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        set_seed(settings.seed)
        model = AutoModelForCausalLM.from_config(config)
        with written_whole(arguments.output) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    print(f"{arguments.output}: {model.num_parameters():,} random weights", file=sys.stderr)
