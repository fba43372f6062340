"""``fnsft apply-delta``: a delta put onto its base, or taken off the tuned model."""

import argparse
import sys
from pathlib import Path

from fnsft.config.stages import DeltaSettings
from fnsft.errors import InputError

SETTINGS = DeltaSettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the model that is changed, the delta and the output."""
    parser.add_argument("--base", help="folder or hub name of the base that the delta is put onto")
    parser.add_argument("--tuned", type=Path, help="tuned model that it is taken off (--revert)")
    parser.add_argument(
        "--delta", type=Path, required=True, help="folder of fnsft export --format delta"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the other model's weights"
    )


def run(arguments: argparse.Namespace, settings: DeltaSettings) -> None:
    """Check the model that was given against the delta, and write the other one."""
    from fnsft.artifacts.deltas import FILE, apply_delta
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.storage import existing, require_elsewhere
    from fnsft.artifacts.weights import open_weights
    from fnsft.hub.models import local_model

    name, other = ("tuned", "base") if settings.revert else ("base", "tuned")
    given = getattr(arguments, name)
    if given is None or getattr(arguments, other) is not None:
        raise InputError(
            f"expected --{name} and no --{other}, found otherwise; a delta is put onto --base, and "
            "taken off --tuned with --revert"
        )
    source = local_model(str(given)) if name == "base" else existing(given)
    require_elsewhere(arguments.output, source, arguments.delta)
    inputs = {name: source, "delta": existing(arguments.delta / FILE)}
    with recorded_stage(settings, inputs, arguments.output) as record:
        n_changed = apply_delta(
            arguments.delta, open_weights(source), arguments.output, revert=settings.revert
        )
        record.note(changed_entries=n_changed)
    print(
        f"{arguments.output}: the {other} model's weights, bit for bit; {n_changed:,} changed",
        file=sys.stderr,
    )
