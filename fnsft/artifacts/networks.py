"""Functional networks: which neurons are in them, and the analyses that found them.

``networks.safetensors`` holds, for every analysis of some layers, ``analysis_000.layers`` int64,
``.loadings`` float32 [K, Σ widths of its layers] (signed), ``.members`` bool of the same shape,
``.time_courses`` float32 [T, K] (each network's mean signal at every token), and of each network
``.variance_share``, ``.stability`` float64 [K] (NaN of one restart); ``.converged`` bool and
``.iterations`` int64 [restarts]. ``sample_offsets`` [samples + 1] and ``dataset_offsets``
[data sets + 1], int64, say where in the T tokens samples and data sets begin, and end with T.
Beside it lies ``<stem>.json``, as :mod:`fnsft.artifacts.templates` has it.

K networks an analysis, numbered through; "neurons" are channels of the site.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from fnsft.artifacts.storage import existing
from fnsft.artifacts.templates import (
    Templates,
    Widths,
    read_layout,
    read_listed,
    short,
    write_templates,
)
from fnsft.artifacts.tensors import Header, open_tensors, write_tensors
from fnsft.config.stages import Site
from fnsft.errors import InputError

__all__ = [
    "Analysis",
    "Networks",
    "Templates",
    "Widths",
    "read_networks",
    "read_templates",
    "stated_widths",
    "write_networks",
    "write_templates",
]

KIND, SCHEMA = "networks", 1
SITES: tuple[Site, ...] = get_args(Site)
NEURON_SITES: tuple[Site, ...] = ("activation", "up", "intermediate")


@dataclass(frozen=True, eq=False)
class Analysis:
    """One decomposition of some layers together; shapes as in the module's docstring."""

    layers: tuple[int, ...]
    loadings: np.ndarray
    members: np.ndarray
    time_courses: np.ndarray
    variance_share: np.ndarray
    stability: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray

    @property
    def n_networks(self) -> int:
        """Networks that were found."""
        return len(self.members)


@dataclass(frozen=True, eq=False)
class Networks:
    """Every analysis of one model's site; ``widths`` are the site's channels of all layers."""

    site: Site
    widths: tuple[int, ...]
    analyses: list[Analysis]
    sample_offsets: np.ndarray
    dataset_offsets: np.ndarray

    def by_layer(self, analysis: Analysis, values: np.ndarray) -> dict[int, np.ndarray]:
        """Split values of the analysis's channels, [K, Σ widths], into [K, width] a layer."""
        ends = np.cumsum([self.widths[layer] for layer in analysis.layers])
        return dict(zip(analysis.layers, np.split(values, ends[:-1], axis=1), strict=True))

    @property
    def templates(self) -> Templates:
        """Which neurons are in each network."""
        found: list[dict[int, np.ndarray]] = []
        for analysis in self.analyses:
            parts = self.by_layer(analysis, analysis.members)
            for number in range(analysis.n_networks):
                found.append({x: np.flatnonzero(part[number]) for x, part in parts.items()})
        return Templates(self.site, self.widths, dict(enumerate(found)))


TENSORS = tuple(field.name for field in dataclasses.fields(Analysis))


def write_networks(path: Path, networks: Networks, model: str, ids: Sequence[int] = ()) -> None:
    """Write networks of the model with this identity, and the JSON of some or all of them."""
    tensors = {
        "site": np.array([SITES.index(networks.site)]),
        "widths": np.array(networks.widths),
        "sample_offsets": networks.sample_offsets,
        "dataset_offsets": networks.dataset_offsets,
    }
    for number, analysis in enumerate(networks.analyses):
        for name in TENSORS:
            tensors[f"analysis_{number:03d}.{name}"] = np.asarray(getattr(analysis, name))
    write_templates(path.with_suffix(".json"), networks.templates, path.stem, ids)
    write_tensors(path, Header(KIND, SCHEMA, model), tensors)


def read_networks(path: Path, model: str | None = None) -> tuple[Header, Networks]:
    """Read networks; when ``model`` is given they must be of the model with this identity."""
    with open_tensors(path, KIND, SCHEMA, model) as (header, file):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        widths = tuple(map(int, tensors["widths"]))
        numbers = sorted({name.split(".")[0] for name in tensors if "." in name})
        analyses = [_analysis(tensors, number, widths) for number in numbers]
        networks = Networks(
            SITES[int(tensors["site"][0])],
            widths,
            analyses,
            tensors["sample_offsets"],
            tensors["dataset_offsets"],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: damaged ({error}); find the networks anew") from None
    return header, networks


def _analysis(tensors: dict[str, np.ndarray], number: str, widths: tuple[int, ...]) -> Analysis:
    fields = {name: tensors[f"{number}.{name}"] for name in TENSORS}
    layers = tuple(map(int, fields.pop("layers")))
    n_networks, n_tokens = len(fields["stability"]), int(tensors["sample_offsets"][-1])
    channels = (n_networks, sum(widths[layer] for layer in layers))
    expected = {"loadings": channels, "members": channels, "time_courses": (n_tokens, n_networks)}
    for name, shape in expected.items():
        if fields[name].shape != shape:
            raise ValueError(f"{number}.{name}: expected {shape}, found {fields[name].shape}")
    return Analysis(layers=layers, **fields)


def read_templates(path: Path, widths: Widths, model: str | None = None) -> Templates:
    """Read which neurons are in each network, from a file of ours or of an earlier tool.

    Parameters
    ----------
    path
        ``.safetensors`` of :func:`write_networks`, or JSON of :mod:`fnsft.artifacts.templates`.
    widths
        What the model has; a file whose ``hidden_size`` is the output's is about the output,
        where it says no site.
    model
        The model's identity, which only ``.safetensors`` hold.

    Raises
    ------
    InputError
        For a file that is none of these, that is of another model, or that names a layer or
        a neuron that the model does not have, or one twice, or no neuron at all.
    """
    if existing(path).suffix != ".safetensors":
        return read_listed(path, widths)
    networks = read_networks(path, model)[1]
    expected = tuple(widths.get(networks.site, ()))
    if networks.widths != expected:
        raise InputError(
            f"{path}: expected {len(expected)} layers of {short(expected)} ({networks.site}), "
            f"found {len(networks.widths)} of {short(networks.widths)}; the networks are of "
            "another model"
        )
    return networks.templates


def stated_widths(paths: Sequence[Path]) -> Widths:
    """Return the widths of the model that all of these files are of, as one of them says.

    ``.safetensors`` say all of it. The layout of JSON says the width, and the layers are then
    as many as any of the files needs. Activation, up and intermediate are of one width.

    Raises
    ------
    InputError
        When no file says it.
    """
    layouts = {path: read_layout(path) for path in paths if path.suffix != ".safetensors"}
    for path in paths:
        if path not in layouts:
            networks = read_networks(path)[1]
            return _alike(networks.site, networks.widths)
    n_layers = max(layout.n_layers for layout in layouts.values())
    # A file that names its site says more than one that does not.
    for layout in sorted(layouts.values(), key=lambda layout: layout.site is None):
        size = layout.hidden_size
        sizes = size if isinstance(size, list) else [size] * n_layers
        if sizes and all(type(width) is int for width in sizes):
            return _alike(layout.site, sizes)
    raise InputError(
        f"{' and '.join(map(str, paths))}: expected one file that says its model's width, found "
        'none; give networks.safetensors, or {"layout": {"hidden_size": width}, '
        '"templates": {"0": {layer: neurons}}}'
    )


def _alike(site: Site | None, widths: Sequence[int]) -> Widths:
    """Return the widths of the sites that have the same channels as ``site``."""
    alike: tuple[Site, ...] = ("output",) if site == "output" else NEURON_SITES
    return {name: tuple(widths) for name in alike}
