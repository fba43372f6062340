"""A plan's summary as text, in columns."""

from collections.abc import Sequence

from fnsft.artifacts.storage import size_in_words
from fnsft.planning.machines import Machine
from fnsft.planning.summary import Summary


def lines_of(summary: Summary, machine: Machine) -> list[str]:
    """Return the summary as text."""
    heads = ("rule", "jobs", "GPU h", "core h", "memory", "of", "kept", "for a while")
    if not machine.has_gpus:
        heads = ("rule", "jobs", "", "core h", "memory", "of", "kept", "for a while")
    table = [
        (
            row.rule,
            f"{row.jobs:,}",
            f"{row.gpu_hours:,.1f}" if row.gpu_hours else "",
            f"{row.core_hours:,.2f}" if row.core_hours else "",
            size_in_words(int(row.memory)),
            row.worst,
            size_in_words(int(row.kept)),
            size_in_words(int(row.temporary)) if row.temporary else "",
        )
        for row in summary.rows
    ]
    at_a_time = f"{machine.gpus} GPUs and " if machine.has_gpus else ""
    hours = f"{summary.gpu_hours:,.1f} GPU hours and " if machine.has_gpus else ""
    lines = [
        *aligned([heads, *table]),
        "",
        f"{summary.jobs:,} jobs, {hours}{summary.core_hours:,.2f} core hours, "
        f"{summary.wall_hours:,.2f} hours with {at_a_time}{machine.cores} cores at a time",
        f"disk: {size_in_words(int(summary.kept))} kept, "
        f"{size_in_words(int(summary.temporary))} for a while",
    ]
    if summary.price:
        lines.append(
            f"cost: {summary.price:,.0f} {machine.currency} at {machine.price:g} a GPU hour"
        )
    if len(summary.models) > 2:
        heads_of_models = ("model", "jobs", "GPU h", "core h", "kept", machine.currency)
        shares = [
            (
                share.model or "(none)",
                f"{share.jobs:,}",
                f"{share.gpu_hours:,.1f}",
                f"{share.core_hours:,.2f}",
                size_in_words(int(share.kept)),
                f"{share.price:,.0f}",
            )
            for share in summary.models
        ]
        lines += ["", *aligned([heads_of_models, *shares])]
    if summary.memory:
        rows = [
            (one.model, one.way, str(one.gpus or ""), size_in_words(int(one.bytes)))
            for one in summary.memory
        ]
        heads_of_memory = ("model", "training", "GPUs", "memory on each")
        lines += ["", *aligned([heads_of_memory, *rows])]
    return [*lines, "", f"rates: {machine.source}"]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of words as columns; numbers stand on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        words = [
            word.rjust(width) if any(c.isdigit() for c in rows[-1][place]) else word.ljust(width)
            for place, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(words).rstrip())
    return lines
