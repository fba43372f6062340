"""Which neurons are in each network, in the JSON form that people and other tools read and write.

The file is::

    {"name": …, "layout": {"site": "intermediate", "captured_layers_sorted": [0, 1],
     "hidden_size": 1536}, "templates": {"0": {"0": [10, 50], "1": [7]}, "1": …}}

network to layer to neurons. Earlier tools write no site; theirs is the MLP's output where
``hidden_size`` is the model's. Plain ``{"0": [10, 50]}``, layer to neurons, is one network of
the site ``intermediate``. ``hidden_size`` is a list, a width a layer, where layers differ.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fnsft.artifacts.storage import read_json, write_json
from fnsft.config.stages import Site
from fnsft.errors import InputError

Widths = Mapping[Site, Sequence[int]]  # of every site a model has, its channels a layer
PLAIN: Site = "intermediate"


@dataclass(frozen=True, eq=False)
class Templates:
    """Networks by number: the neurons of every layer, ascending; a layer may be left out.

    ``widths`` are the site's channels of every layer of the model.
    """

    site: Site
    widths: tuple[int, ...]
    neurons: dict[int, dict[int, np.ndarray]]

    def union(self, ids: Sequence[int], layers: Sequence[int] | None = None) -> list[np.ndarray]:
        """Return the neurons of several networks: a bool vector [width] a layer of the model.

        Raises
        ------
        InputError
            For a network that there is not, and when they have no neuron in these layers.
        """
        chosen = [np.zeros(width, dtype=bool) for width in self.widths]
        for number in ids:
            if number not in self.neurons:
                known = ", ".join(map(str, self.neurons))
                raise InputError(f"component_ids: expected networks of {known}, found {number}")
            for layer, neurons in self.neurons[number].items():
                if layers is None or layer in layers:
                    chosen[layer][neurons] = True
        if not any(layer.any() for layer in chosen):
            which = ", ".join(map(str, ids))
            raise InputError(
                f"networks {which}: expected at least one neuron in the layers chosen, found none; "
                "choose other networks or layers"
            )
        return chosen


def write_templates(path: Path, templates: Templates, name: str, ids: Sequence[int] = ()) -> None:
    """Write the JSON form of some networks, or all of them."""
    listed = {
        str(number): {
            str(layer): neurons.tolist() for layer, neurons in templates.neurons[number].items()
        }
        for number in ids or templates.neurons
    }
    same = len(set(templates.widths)) == 1
    layout = {
        "site": templates.site,
        "captured_layers_sorted": sorted({int(layer) for one in listed.values() for layer in one}),
        "hidden_size": templates.widths[0] if same else list(templates.widths),
    }
    write_json(path, {"name": name, "layout": layout, "templates": listed})


def read_listed(path: Path, widths: Widths) -> Templates:
    """Read networks from JSON; see :func:`fnsft.artifacts.networks.read_templates`."""
    pairs = _pairs(path)
    listed = dict(pairs)
    if "templates" not in listed:
        if PLAIN not in widths:
            raise InputError(
                f"{path}: expected networks of {', '.join(widths)}, found plain lists, which are "
                f"of the site {PLAIN}"
            )
        neurons = _layers(path, pairs, widths[PLAIN])
        _require_neurons(path, neurons)
        return Templates(PLAIN, tuple(widths[PLAIN]), {0: neurons})
    site = _site(path, _plainly(listed.get("layout")), widths)
    templates = listed["templates"]
    if not isinstance(templates, _Pairs):
        raise InputError(f"{path}: templates: expected networks, found {templates!r:.60}")
    found: dict[int, dict[int, np.ndarray]] = {}
    for name, layers in templates:
        if not name.isdecimal() or int(name) in found or not isinstance(layers, _Pairs):
            raise InputError(
                f"{path}: templates: expected networks by number, each once, with their layers, "
                f"found {name!r:.60}"
            )
        found[int(name)] = _layers(f"{path}: network {name}", layers, widths[site])
    # One without neurons is a finding (no |z| is large enough); all of them are a mistake.
    _require_neurons(path, *found.values())
    return Templates(site, tuple(widths[site]), found)


@dataclass(frozen=True)
class Layout:
    """What a JSON file says of its model; None where it says nothing.

    ``hidden_size`` may be a list, of every layer; the model has at least ``n_layers``.
    """

    site: Any
    hidden_size: Any
    n_layers: int


def read_layout(path: Path) -> Layout:
    """Read what a JSON file says of its model; whether it is sound is seen when it is read."""
    pairs = _pairs(path)
    listed = dict(pairs)
    layout, networks = {}, [pairs]
    if isinstance(templates := listed.get("templates"), _Pairs):
        networks = [network for _, network in templates if isinstance(network, _Pairs)]
        layout = dict(listed["layout"]) if isinstance(listed.get("layout"), _Pairs) else {}
    layers = [int(layer) for network in networks for layer, _ in network if layer.isdecimal()]
    return Layout(layout.get("site"), layout.get("hidden_size"), max(layers, default=-1) + 1)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all of its keys, also those that it has twice.

    A dict keeps the last of equal keys, and would lose the neurons of the others.
    """


def _pairs(path: Path) -> _Pairs:
    listed = read_json(path)
    if not isinstance(listed, dict):
        raise InputError(
            f'{path}: expected layers and their neurons, as {{"0": [10, 50]}}, found {listed!r:.60}'
        )
    return json.loads(path.read_text(), object_pairs_hook=_Pairs)


def _plainly(value: Any) -> Any:
    return dict(value) if isinstance(value, _Pairs) else value


def _site(path: Path, layout: Any, widths: Widths) -> Site:
    """Return the site of a file's layout; earlier tools wrote the width alone."""
    if not isinstance(layout, dict) or "hidden_size" not in layout:
        raise InputError(f"{path}: layout: expected a hidden_size, found {layout!r:.60}")
    site, width = layout.get("site"), layout["hidden_size"]
    if site is not None and site not in get_args(Site):
        raise InputError(
            f"{path}: layout: site: expected one of {', '.join(get_args(Site))}, found {site!r:.60}"
        )
    candidates: list[Site] = [PLAIN, "output"] if site is None else [site]
    for candidate in candidates:
        has = list(widths.get(candidate, ()))
        if has and width in (has, has[0] if len(set(has)) == 1 else None):
            return candidate
    described = "; ".join(f"{name} {short(has)}" for name, has in widths.items())
    of_site = f" of the site {site}" if site else ""
    raise InputError(
        f"{path}: layout: expected a hidden_size of this model ({described}), found "
        f"{width!r:.60}{of_site}; the networks are of another model"
    )


def short(widths: Sequence[int]) -> str:
    """Name the widths that layers have."""
    return " or ".join(map(str, sorted(set(widths)))) or "none"


def _require_neurons(path: Path, *networks: dict[int, np.ndarray]) -> None:
    if not any(len(neurons) for network in networks for neurons in network.values()):
        raise InputError(f"{path}: expected at least one neuron, found none")


def _layers(
    where: object, layers: list[tuple[str, Any]], widths: Sequence[int]
) -> dict[int, np.ndarray]:
    """Check one network's layers and neurons."""
    known = {str(layer): layer for layer in range(len(widths))}
    found: dict[int, np.ndarray] = {}
    for name, neurons in layers:
        if name not in known:
            raise InputError(f"{where}: expected layers 0 to {len(widths) - 1}, found {name!r:.60}")
        if known[name] in found:
            raise InputError(f"{where}: layer {name}: expected it once; join its lists")
        _check(f"{where}: layer {name}", neurons, widths[known[name]])
        found[known[name]] = np.array(sorted(neurons), dtype=np.int64)
    return found


def _check(where: str, neurons: Any, width: int) -> None:
    if not isinstance(neurons, list) or isinstance(neurons, _Pairs):
        raise InputError(f"{where}: expected a list of neurons, found {_plainly(neurons)!r:.60}")
    seen = set()
    for neuron in neurons:
        # True and 3.0 would index an array as well.
        if type(neuron) is not int or not 0 <= neuron < width:
            raise InputError(f"{where}: expected neurons 0 to {width - 1}, found {neuron!r:.60}")
        if neuron in seen:
            raise InputError(f"{where}: expected each neuron once, found {neuron} twice")
        seen.add(neuron)
