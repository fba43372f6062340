"""``fnsft world``: a synthetic world becomes a folder of data sets in published formats."""

import argparse
import sys
from pathlib import Path

from fnsft.artifacts.manifest import recorded_stage
from fnsft.config.stages import WorldSettings

SETTINGS = WorldSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the folder that the stage writes."""
    parser.add_argument("--output", type=Path, required=True, help="folder of the world")


def run(arguments: argparse.Namespace, settings: WorldSettings) -> None:
    """Draw the world and write its folder."""
    from fnsft.data.world.assembly import make_world, write_world

    with recorded_stage(settings, {}, arguments.output):
        world = make_world(settings)
        write_world(arguments.output, world)
    print(
        f"{arguments.output}: {len(world.corpus):,} documents, "
        f"{len(world.math_test)} held-out problems, {len(world.code_test)} functions, "
        f"{len(world.facts_test)} facts",
        file=sys.stderr,
    )
