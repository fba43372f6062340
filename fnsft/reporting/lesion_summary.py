"""What each network's lesion cost, beside random neurons of the same number."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fnsft.artifacts.lesions import Experiment, Lesion
from fnsft.errors import InputError

LOSS = "perplexity"  # the benchmark whose metric is a loss: more is worse
Analysis: TypeAlias = tuple[str, str, str, int]  # model, task, networks, seed


@dataclass(frozen=True)
class Comparison:
    """One benchmark under one condition, on the evaluation split.

    Values are the loss in nats a token (perplexity: its exponential) or the share of right
    answers. ``stderr`` is over ``n`` items; ``random`` are the values of the draws, which
    are as many neurons in every layer, drawn at random.
    """

    intact: float
    value: float
    stderr: float | None
    n: int
    random: tuple[float, ...]
    higher_is_worse: bool

    @property
    def random_mean(self) -> float | None:
        """Mean over the draws, None without one."""
        return statistics.fmean(self.random) if self.random else None

    @property
    def random_sd(self) -> float | None:
        """Standard deviation over the draws, None with fewer than two."""
        return statistics.stdev(self.random) if len(self.random) > 1 else None

    @property
    def draws_as_bad(self) -> int:
        """Count the draws that hurt at least as much as the network does."""
        sign = 1 if self.higher_is_worse else -1
        return sum(sign * (draw - self.value) >= 0 for draw in self.random)


@dataclass(frozen=True)
class NetworkEffect:
    """What one network does; ``rank`` 1 is the largest effect on the ranking split.

    An effect is the rise of the loss when the network is removed, in nats a token: the log of
    the ratio of perplexities. ``removed`` and ``amplified`` map benchmarks (perplexity, and
    cloze and gsm8k where they were measured) to what the evaluation split shows.
    """

    model: str
    task: str
    networks: str
    seed: int
    network: int
    rank: int
    n_neurons: int
    share: float
    ranking_effect: float
    removed: Mapping[str, Comparison]
    amplified: Mapping[str, Comparison]

    @property
    def effect(self) -> float:
        """The effect on the evaluation split, which had no part in the ranking."""
        return self.removed[LOSS].value - self.removed[LOSS].intact

    @property
    def draws_as_bad(self) -> int:
        """Random draws whose effect on the evaluation split is at least the network's."""
        return self.removed[LOSS].draws_as_bad


def summarise_lesions(rows: Sequence[Lesion]) -> list[NetworkEffect]:
    """Return every network's effect: by model, task, networks and seed, then by rank.

    Raises
    ------
    InputError
        When the rows lack the intact model's values or a network's loss, or have one twice.
    """
    by_analysis: dict[Analysis, list[Lesion]] = {}
    for row in rows:
        by_analysis.setdefault((row.model, row.task, row.networks, row.seed), []).append(row)
    return [effect for part in by_analysis.values() for effect in _summarise_one(part)]


def compare(intact: Iterable[Lesion], rows: Iterable[Lesion]) -> dict[str, Comparison]:
    """Set one condition's rows of a network against its random draws, by benchmark.

    ``rows`` are those of one experiment, and of one network, number of networks or share;
    those of the ranking split are left out of both. A benchmark is absent without a network's
    row.
    """
    reference = {row.benchmark: row.value for row in intact if row.split == "evaluation"}
    shown = [row for row in rows if row.split == "evaluation"]
    found: dict[str, Comparison] = {}
    for row in shown:
        if row.source != "network":
            continue
        if row.benchmark in found or row.benchmark not in reference:
            raise _incomplete(row, f"its {row.benchmark} and the intact model's, each once")
        draws = [r for r in shown if (r.benchmark, r.source) == (row.benchmark, "random")]
        if len({draw.draw for draw in draws}) < len(draws):
            raise _incomplete(row, "each random draw once")
        found[row.benchmark] = Comparison(
            intact=reference[row.benchmark],
            value=row.value,
            stderr=row.stderr,
            n=row.n,
            random=tuple(draw.value for draw in draws),
            higher_is_worse=row.benchmark == LOSS,
        )
    return found


def _summarise_one(rows: list[Lesion]) -> list[NetworkEffect]:
    intact = [row for row in rows if row.experiment == "intact"]
    found: list[NetworkEffect] = []
    for network, row in _ranked(intact, rows):
        both: dict[Experiment, dict[str, Comparison]] = {
            experiment: compare(
                intact, [r for r in rows if (r.experiment, r.network) == (experiment, network)]
            )
            for experiment in ("single", "amplified")
        }
        if LOSS not in both["single"]:
            raise _incomplete(row, "its loss on the evaluation split")
        found.append(
            NetworkEffect(
                model=row.model,
                task=row.task,
                networks=row.networks,
                seed=row.seed,
                network=network,
                rank=len(found) + 1,
                n_neurons=row.n_neurons,
                share=row.n_neurons / row.n_all,
                ranking_effect=row.value - _ranking_loss(intact, row),
                removed=both["single"],
                amplified=both["amplified"],
            )
        )
    return found


def _ranked(intact: list[Lesion], rows: list[Lesion]) -> list[tuple[int, Lesion]]:
    """Return the networks and their rows of the ranking split, the largest loss first."""
    alone = [r for r in rows if (r.experiment, r.split) == ("single", "ranking")]
    by_network = {row.network: row for row in alone if row.network is not None}
    if len(by_network) < len(alone):
        raise _incomplete(alone[0], "each network once on the ranking split")
    return sorted(by_network.items(), key=lambda item: (-item[1].value, item[0]))


def _ranking_loss(intact: list[Lesion], row: Lesion) -> float:
    found = [r.value for r in intact if r.split == "ranking"]
    if len(found) != 1:
        raise _incomplete(row, "the intact model's loss on the ranking split, once")
    return found[0]


def _incomplete(row: Lesion, expected: str) -> InputError:
    of = f"{row.experiment} {row.network}" if row.network is not None else row.experiment
    return InputError(
        f"lesions of {row.model}, {row.networks}, seed {row.seed}, {of}: expected {expected}, "
        "found otherwise; give every file of fnsft lesion once, as it was written"
    )
