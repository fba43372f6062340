"""``fnsft choose``: a learning rate for every method, by validation perplexity."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import ChooseSettings

SETTINGS = ChooseSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the sweep's runs and the output."""
    parser.add_argument(
        "--training", type=Path, nargs="+", required=True, help="training.json files or folders"
    )
    parser.add_argument("--output", type=Path, required=True, help="the choice, .yaml")


def run(arguments: argparse.Namespace, settings: ChooseSettings) -> None:
    """Read the runs, choose, write, and warn of choices that the grid does not support."""
    import dataclasses

    import yaml

    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import written_whole
    from fnsft.artifacts.training import read_training
    from fnsft.reporting.choice import choose_rates

    inputs = {str(path): path for path in arguments.training}
    with recorded_stage(settings, inputs, arguments.output):
        choices = choose_rates(read_training(path) for path in inputs.values())
        chosen = {
            choice.method: {
                "learning_rate": choice.learning_rate,
                "at_edge": choice.at_edge,
                "rates_tried": len(choice.curve),
                "curve": [dataclasses.asdict(point) for point in choice.curve],
            }
            for choice in choices
        }
        with written_whole(arguments.output) as partial:
            # PyYAML writes 1.0e-05, which every YAML reader takes for a number.
            partial.write_text(yaml.safe_dump({"methods": chosen}, sort_keys=False))
    for choice in choices:
        if choice.warning:
            print(f"fnsft choose: warning: {choice.warning}", file=sys.stderr)
    listing = ", ".join(f"{choice.method} {choice.learning_rate:g}" for choice in choices)
    print(f"{arguments.output}: {listing}", file=sys.stderr)
