"""``fnsft match``: which networks of two sets are the same."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fnsft.config.stages import MatchSettings

if TYPE_CHECKING:
    from fnsft.artifacts.networks import Widths
    from fnsft.neurons.matching import NetworkSet

SETTINGS = MatchSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes."""
    what = "networks, .safetensors or .json; of any model of the same shape"
    parser.add_argument("--first", type=Path, required=True, help=what)
    parser.add_argument("--second", type=Path, required=True, help=what)
    parser.add_argument("--output", type=Path, required=True, help="matches, .jsonl")


def run(arguments: argparse.Namespace, settings: MatchSettings) -> None:
    """Read both sets, match them one to one, write the pairs."""
    from statistics import mean

    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.matches import write_matches
    from fnsft.artifacts.networks import stated_widths
    from fnsft.neurons.matching import match_networks

    inputs = {"first": arguments.first, "second": arguments.second}
    with recorded_stage(settings, inputs, arguments.output) as record:
        widths = stated_widths(list(inputs.values()))
        first, second = (read_set(path, widths) for path in inputs.values())
        matches = match_networks(first, second, settings.permutations, settings.seed)
        write_matches(arguments.output, matches)
        record.note(networks=[len(first.numbers), len(second.numbers)], matches=len(matches))
    correlations = [match.correlation for match in matches if match.correlation is not None]
    by_chance = [m.correlation_chance for m in matches if m.correlation_chance is not None]
    print(
        f"{arguments.output}: {len(matches)} pairs of {len(first.numbers)} and "
        f"{len(second.numbers)} networks; mean IoU {mean(m.iou for m in matches):.3f} "
        f"({mean(m.iou_chance for m in matches):.3f} by chance)"
        + (f", mean |correlation| {mean(correlations):.3f}" if correlations else "")
        + (f" ({mean(by_chance):.3f} by chance)" if by_chance else ""),
        file=sys.stderr,
    )


def read_set(path: Path, widths: "Widths") -> "NetworkSet":
    """Read networks, with their loadings where the file has them."""
    from fnsft.artifacts.networks import read_networks, read_templates
    from fnsft.neurons.matching import NetworkSet

    templates = read_templates(path, widths)
    if path.suffix != ".safetensors":
        return NetworkSet.of_templates(templates)
    return NetworkSet.of_networks(read_networks(path)[1])
