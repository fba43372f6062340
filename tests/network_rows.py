"""Hand-made networks and lesions, with every experiment that ``fnsft lesion`` has."""

from collections.abc import Iterator, Sequence

import numpy as np

from fnsft.artifacts.lesions import Lesion
from fnsft.artifacts.networks import Analysis, Networks

N_ALL, SIZE, N_NETWORKS, N_DRAWS = 1_000, 20, 10, 5
SHARES = (0.02, 0.1, 0.4, 0.8)
METRICS = {"perplexity": "loss", "cloze": "accuracy", "gsm8k": "accuracy"}
N_ITEMS = {"perplexity": 64, "cloze": 100, "gsm8k": 50}
INTACT = {"perplexity": 0.4, "cloze": 0.9, "gsm8k": 0.3}


def lesions_of(
    model: str,
    seeds: Sequence[int] = (0, 1, 2),
    benchmarks: Sequence[str] = ("perplexity", "cloze"),
    n_networks: int = N_NETWORKS,
) -> list[Lesion]:
    """Return all rows of a model; network 3 of seed 0 (4 of seed 1, and so on) hurts most."""
    return [row for seed in seeds for row in _of_seed(model, seed, benchmarks, n_networks)]


def _of_seed(model: str, seed: int, benchmarks: Sequence[str], n_networks: int) -> Iterator[Lesion]:
    rng = np.random.default_rng([len(model), seed])

    def condition(
        experiment: str, n_neurons: int, hurt: float, **place: object
    ) -> Iterator[Lesion]:
        """Rows of the network and its random sets, which hurt by the share that is masked."""
        draws = [None] if experiment == "intact" else [None, *range(N_DRAWS)]
        ranked = experiment in ("intact", "single")
        for draw in draws:
            harm = hurt if draw is None else n_neurons / N_ALL * rng.uniform(0.5, 1.5)
            for split in ("ranking", "evaluation")[not ranked or draw is not None :]:
                for benchmark in benchmarks if split == "evaluation" else ("perplexity",):
                    if experiment == "amplified" and benchmark != "perplexity":
                        continue
                    loss = benchmark == "perplexity"
                    noise = float(rng.normal(0, 0.002)) if experiment != "intact" else 0.0
                    value = (
                        INTACT[benchmark] + 4 * harm if loss else INTACT[benchmark] * np.exp(-harm)
                    )
                    yield Lesion(
                        model=model,
                        task="math",
                        networks="ica",
                        seed=seed,
                        experiment=experiment,
                        source="network" if draw is None else "random",
                        split=split,
                        draw=draw,
                        network=place.get("network"),
                        n_networks=place.get("n_networks"),
                        share=place.get("share"),
                        n_neurons=n_neurons,
                        n_all=N_ALL,
                        benchmark=benchmark,
                        metric=METRICS[benchmark],
                        value=float(value) + noise,
                        stderr=0.03,
                        n=N_ITEMS[benchmark],
                    )

    effects = {
        network: 0.4 / (1 + (network - 3 - seed) % n_networks) - 0.03
        for network in range(n_networks)
    }
    ranked = sorted(effects, key=lambda network: -effects[network])
    yield from condition("intact", 0, 0.0)
    for network, effect in effects.items():
        yield from condition("single", SIZE, effect, network=network)
        yield from condition("amplified", SIZE, effect / 4, network=network)
    for n in range(1, n_networks + 1):
        together = sum(effects[network] for network in ranked[:n])
        yield from condition("removed", SIZE * n, together, n_networks=n)
        yield from condition("kept", N_ALL - SIZE * n, 2.5 - together, n_networks=n)
    for share in SHARES:
        masked = round(N_ALL * (1 - share))
        yield from condition("unmasked", masked, 1.5 * (1 - share) ** 2, share=share)


def networks_of(
    scope: str = "stack", n_layers: int = 4, width: int = 50, n_networks: int = 5, seed: int = 0
) -> Networks:
    """Networks of random neurons; the last layer was not analysed."""
    rng = np.random.default_rng(seed)
    analysed = tuple(range(n_layers - 1))
    groups = [analysed] if scope == "stack" else [(layer,) for layer in analysed]
    analyses = []
    for layers in groups:
        members = rng.random((n_networks, len(layers) * width)) < 0.1
        common = rng.normal(size=(90, 1))
        signs = rng.choice([-1, 1], n_networks)
        analyses.append(
            Analysis(
                layers=layers,
                loadings=rng.normal(size=members.shape).astype(np.float32),
                members=members,
                time_courses=(signs * common + rng.normal(size=(90, n_networks))).astype(
                    np.float32
                ),
                variance_share=np.full(n_networks, 0.1),
                stability=np.ones(n_networks),
                converged=np.array([True]),
                iterations=np.array([9]),
            )
        )
    offsets = np.array([0, 30, 60, 90])
    return Networks("intermediate", (width,) * n_layers, analyses, offsets, np.array([0, 90]))
