"""``fnsft figure``: validation curves of fine-tuning runs, as PDF and PNG."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from fnsft.config.stages import FigureSettings
from fnsft.errors import InputError

SETTINGS = FigureSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the runs and the output."""
    parser.add_argument(
        "--training", type=Path, nargs="+", required=True, help="training.json files or folders"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="the figure, .pdf; a .png goes beside it"
    )


def run(arguments: argparse.Namespace, settings: FigureSettings) -> None:
    """Read the runs, draw, write both formats."""
    output: Path = arguments.output
    if output.suffix != ".pdf":
        raise InputError(f"{output}: expected a name that ends in .pdf; the .png goes beside it")

    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import written_whole
    from fnsft.artifacts.training import read_training
    from fnsft.reporting.curves import panels_of
    from fnsft.reporting.figure import draw, save
    from fnsft.reporting.labels import ModelLabels

    inputs = {str(path): path for path in arguments.training}
    with recorded_stage(settings, inputs, output):
        labels = ModelLabels.of(settings)
        trainings = [labels.training(read_training(path)) for path in arguments.training]
        labelled = replace(settings, models=labels.models(settings.models), model_labels=())
        panels = panels_of(trainings, labelled)
        figure = draw(panels)
        with written_whole(output.with_suffix(".png")) as partial:
            save(figure, partial, "png")
        with written_whole(output) as partial:
            save(figure, partial, "pdf")
    curves = sum(len(panel.curves) for panel in panels)
    print(f"{output}: {len(panels)} models, {curves} curves", file=sys.stderr)
