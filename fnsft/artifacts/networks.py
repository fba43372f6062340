"""A network of neurons as people write it: ``{"0": [10, 50], "3": [7]}``, layer to neurons."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fnsft.artifacts.storage import read_json
from fnsft.errors import InputError


def read_neurons(path: Path, n_layers: int, d_mlp: int) -> list[np.ndarray]:
    """Read which neurons of each layer are in a network: bool [d_mlp] a layer.

    Layers and neurons count from 0; a layer that is left out has none.

    Raises
    ------
    InputError
        For a file that is not that, or names a layer or a neuron that the model does not have,
        or one twice, or no neuron at all.
    """
    listed = read_json(path)
    if not isinstance(listed, dict):
        raise InputError(
            f'{path}: expected layers and their neurons, as {{"0": [10, 50]}}, found {listed!r:.60}'
        )
    # A dict keeps the last of equal keys, and would lose the neurons of the others.
    named = [name for name, _ in json.loads(path.read_text(), object_pairs_hook=list)]
    layers = {str(layer): layer for layer in range(n_layers)}
    network = np.zeros((n_layers, d_mlp), dtype=bool)
    for name, neurons in listed.items():
        if name not in layers:
            raise InputError(f"{path}: expected layers 0 to {n_layers - 1}, found {name!r:.60}")
        if named.count(name) > 1:
            raise InputError(f"{path}: layer {name}: expected it once; join its lists")
        _check(f"{path}: layer {name}", neurons, d_mlp)
        network[layers[name], neurons] = True
    if not network.any():
        raise InputError(f"{path}: expected at least one neuron, found none")
    return list(network)


def _check(where: str, neurons: Any, d_mlp: int) -> None:
    if not isinstance(neurons, list):
        raise InputError(f"{where}: expected a list of neurons, found {neurons!r:.60}")
    seen = set()
    for neuron in neurons:
        # True and 3.0 would index an array as well.
        if type(neuron) is not int or not 0 <= neuron < d_mlp:
            raise InputError(f"{where}: expected neurons 0 to {d_mlp - 1}, found {neuron!r:.60}")
        if neuron in seen:
            raise InputError(f"{where}: expected each neuron once, found {neuron} twice")
        seen.add(neuron)
