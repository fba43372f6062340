"""Functional networks of a model: its activations on some data, decomposed.

Networks are numbered through the analyses, in the order of their layers.
"""

import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedModel

from fnsft.architectures.sites import site_widths
from fnsft.artifacts.networks import Analysis, Networks
from fnsft.artifacts.site_values import SiteValues
from fnsft.artifacts.storage import require_space
from fnsft.config.layer_ranges import parse_layers
from fnsft.config.stages import NetworksSettings, Site
from fnsft.devices import accelerator
from fnsft.errors import InputError
from fnsft.neurons.decomposition import (
    Activations,
    Decomposition,
    NetworksDidNotConverge,
    decompose,
)
from fnsft.neurons.recording import Drawn, Samples, draw_samples, record_site, shuffle_tokens


@dataclass(frozen=True, eq=False)
class Discovery:
    """Networks, and how they were found.

    ``notes`` belong into the manifest (JSON values); ``doubts`` say of every analysis that did
    not converge what did not.
    """

    networks: Networks
    notes: dict[str, Any]
    doubts: list[str]


def find_networks(
    model: PreTrainedModel, datasets: Sequence[Samples], settings: NetworksSettings, folder: Path
) -> Discovery:
    """Find the networks of a model on the token ids of one or several data sets.

    The values of the site, 2 bytes a token and channel, lie in ``folder`` while they are
    analysed, and are removed. The model is left in evaluation mode.

    Raises
    ------
    InputError
        For a site or layers that the model does not have, too little space, and activations
        that cannot be decomposed: not finite, constant, or with fewer tokens or channels than
        networks.

    Warns
    -----
    NetworksDidNotConverge
        Once for all analyses.

    Notes
    -----
    ``settings.samples`` samples of each data set are drawn without replacement, all where
    there are fewer, kept in the data's order and cut to ``settings.max_tokens``. The draw
    depends on the seed and the data set alone. With ``shuffle_tokens`` every channel's values
    are permuted over the tokens of a data set: what is found then is found by chance.
    """
    widths = analysed_widths(model, settings.site)
    groups = layer_groups(settings, len(widths))
    layers = {layer: widths[layer] for group in groups for layer in group}
    drawn = [draw_samples(samples, settings) for samples in datasets]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".site-values-", dir=folder) as scratch:
        stored = [
            SiteValues(Path(scratch) / f"{number:03d}", part.n_tokens, layers)
            for number, part in enumerate(drawn)
        ]
        require_space(Path(scratch), sum(values.n_bytes for values in stored))
        for number, (values, part) in enumerate(zip(stored, drawn, strict=True)):
            record_site(model, part.samples, settings, values)
            if settings.shuffle_tokens:
                shuffle_tokens(values, (settings.seed, number))
        doubts: list[str] = []
        found = [
            _decomposed(stored, group, settings, doubts)
            for group in tqdm(groups, desc="decompose", unit="analysis", disable=None)
        ]
    if doubts:
        text = f"{len(doubts)} of {len(groups)} analyses: {doubts[0]}"
        warnings.warn(text, NetworksDidNotConverge, stacklevel=2)
    lengths = [len(ids) for part in drawn for ids in part.samples]
    networks = Networks(
        site=settings.site,
        widths=widths,
        analyses=[_analysis(*pair) for pair in zip(groups, found, strict=True)],
        sample_offsets=np.cumsum([0, *lengths], dtype=np.int64),
        dataset_offsets=np.cumsum([0, *(part.n_tokens for part in drawn)], dtype=np.int64),
    )
    notes = {
        "datasets": [_dataset_notes(part) for part in drawn],
        "analyses": [_analysis_notes(*pair) for pair in zip(groups, found, strict=True)],
        "neurons_by_network_and_layer": coverage(networks),
    }
    return Discovery(networks, notes, doubts)


def analysed_widths(model: PreTrainedModel, site: Site) -> tuple[int, ...]:
    """Return the site's channels of every layer; a site that the model lacks is refused."""
    known = site_widths(model)
    if site not in known:
        raise InputError(
            f"site: expected one of {', '.join(known)}, found {site!r}, which MLPs without a gate "
            "do not have"
        )
    return known[site]


def layer_groups(settings: NetworksSettings, n_layers: int) -> list[tuple[int, ...]]:
    """Return the layers of every analysis; a last window may be shorter."""
    layers = parse_layers(settings.layers, n_layers)
    size = {"layer": 1, "window": settings.window, "stack": n_layers}[settings.scope]
    return [layers[start : start + size] for start in range(0, len(layers), size)]


def coverage(networks: Networks) -> list[dict[str, int]]:
    """Count every network's neurons in the layers that were analysed."""
    templates = networks.templates.neurons.values()
    return [{str(layer): len(found) for layer, found in layers.items()} for layers in templates]


def _decomposed(
    stored: Sequence[SiteValues],
    layers: tuple[int, ...],
    settings: NetworksSettings,
    doubts: list[str],
) -> Decomposition:
    """Map one analysis's values of every data set, and decompose them; gather its doubts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NetworksDidNotConverge)
        found = decompose(
            [Activations([values.layer(layer) for layer in layers]) for values in stored],
            n_components=settings.n_components,
            independent=settings.independent,
            standardise=settings.standardise,
            restarts=settings.restarts,
            max_iterations=settings.max_iterations,
            tolerance=settings.tolerance,
            threshold=settings.threshold,
            percentile=settings.percentile,
            z=settings.z,
            seed=settings.seed,
            device=accelerator(),
        )
    for warning in caught:
        if issubclass(warning.category, NetworksDidNotConverge):
            doubts.append(f"layers {layers[0]} to {layers[-1]}: {warning.message}")
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return found


def _analysis(layers: tuple[int, ...], found: Decomposition) -> Analysis:
    return Analysis(
        layers=layers,
        loadings=found.loadings,
        members=found.members,
        time_courses=found.time_courses,
        variance_share=found.variance_share,
        stability=found.stability,
        converged=found.converged,
        iterations=found.iterations,
    )


def _dataset_notes(drawn: Drawn) -> dict[str, int]:
    return {
        "samples": len(drawn.samples),
        "samples_not_drawn": drawn.n_not_drawn,
        "samples_cut": drawn.n_cut,
        "tokens": drawn.n_tokens,
    }


def _analysis_notes(layers: tuple[int, ...], found: Decomposition) -> dict[str, Any]:
    reproducibility = found.reproducibility
    return {
        "layers": list(layers),
        "converged": found.converged.tolist(),
        "iterations": found.iterations.tolist(),
        "passes": found.passes,
        "residual": found.residual,
        "constant_channels": found.constant,
        "variance_share": _numbers(found.variance_share),
        "stability": _numbers(found.stability),
        "reproducibility": None if reproducibility is None else _numbers(reproducibility),
        "networks_without_neurons": np.flatnonzero(~found.members.any(axis=1)).tolist(),
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return numbers as JSON has them, which knows no NaN."""
    return [round(float(value), 4) if math.isfinite(value) else None for value in values]
