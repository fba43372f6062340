"""Fine-tuning runs that tests start, and what they are made from."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fnsft.artifacts.clusters import read_clusters, write_clusters
from fnsft.artifacts.graphs import dense_graph_writer, graph_model, read_graph
from fnsft.artifacts.prompt_formats import PromptFormat, write_prompt_format
from fnsft.artifacts.rows import numbered_rows
from fnsft.artifacts.storage import write_jsonl
from fnsft.artifacts.templates import Templates, write_templates
from fnsft.cli.main import main

BASIC = {"epochs": 1, "batch-size": 4, "micro-batch-size": 2, "learning-rate": 1e-3}
N_TRAIN = 14  # three full batches of four and a partial one


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sums of one digit as prepared splits."""
    folder = tmp_path_factory.mktemp("sums")
    numbers = random.Random(0)

    def row() -> dict[str, str]:
        a, b = numbers.randrange(9), numbers.randrange(9)
        return {"prompt": f"Question: {a}+{b}?\nAnswer:", "completion": f" {a + b}\n#### {a + b}"}

    sizes = {"train": N_TRAIN, "validation": 5, "test": 5}
    return write_prepared(folder, {name: [row() for _ in range(n)] for name, n in sizes.items()})


def write_prepared(folder: Path, splits: dict[str, list[Any]]) -> Path:
    """Write a folder as ``fnsft prepare`` does, but for its manifest."""
    for name, rows in splits.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    write_prompt_format(folder, PromptFormat("basic", "question"))
    return folder


def first_samples(data: Path, n: int, folder: Path) -> Path:
    """Write the first ``n`` samples of the splits that train and validate."""
    splits = {
        name: [row for _, row in numbered_rows(data / f"{name}.jsonl")][:n]
        for name in ("train", "validation")
    }
    return write_prepared(folder, splits)


def words(model: Path, data: Path, output: Path, **settings: Any) -> list[str]:
    found = ["train", "--model", str(model), "--data", str(data), "--output", str(output)]
    for name, value in (BASIC | settings).items():
        flag = name.replace("_", "-")
        switch = {True: f"--{flag}", False: f"--no-{flag}"}
        values = value if isinstance(value, (list, tuple)) else [value]
        found += [switch[value]] if isinstance(value, bool) else [f"--{flag}", *map(str, values)]
    return found


def train(model: Path, data: Path, output: Path, **settings: Any) -> int:
    return main(words(model, data, output, **settings))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


NETWORKS: list[dict[int, list[int]]] = [
    {0: [1, 5, 40], 1: [0, *range(30, 64)]},
    {0: [2, 5], 1: [3]},
    {1: [1, 2]},
]


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks of two layers of 64 neurons, the second with a neuron of the first."""
    path = tmp_path_factory.mktemp("networks") / "networks.json"
    found = {
        number: {layer: np.array(ids) for layer, ids in layers.items()}
        for number, layers in enumerate(NETWORKS)
    }
    write_templates(path, Templates("intermediate", (64, 64), found), "planted")
    return path


@pytest.fixture(scope="session")
def graph(tiny_model_dir: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    model_and_data = ["--model", str(tiny_model_dir), "--data", str(data / "train.jsonl")]
    tokens, dump, output = folder / "tokens.safetensors", folder / "dump", folder / "g.safetensors"
    assert main(["statistics", *model_and_data, "--output", str(tokens)]) == 0
    assert main(["capture", *model_and_data, "--output", str(dump)]) == 0
    inputs = ["--statistics", str(tokens), "--activations", str(dump), "--output", str(output)]
    assert main(["project", *inputs]) == 0
    return output


@pytest.fixture(scope="session")
def clusters(graph: Path) -> Path:
    """Clusters of the graph; neurons 0 to 2 of the first layer are put in none."""
    path = graph.with_name("clusters.safetensors")
    assert main(["cluster", "--graph", str(graph), "--output", str(path), "--k", "5"]) == 0
    found, model = read_clusters(path), graph_model(graph)
    found.layers[0].labels[:3] = -1
    write_clusters(path, found, model)
    return path


@pytest.fixture(scope="session")
def dense_graph(graph: Path) -> Path:
    """All weights that the graph stores, as a dense graph."""
    path, sparse = graph.with_name("dense.safetensors"), read_graph(graph)
    shape = (sparse.n_layers, sparse.d_mlp)
    with dense_graph_writer(path, *shape, graph_model(graph)) as matrices:
        for matrix, layer in zip(matrices, sparse.layers, strict=True):
            rows = np.repeat(np.arange(sparse.d_mlp), np.diff(layer.indptr))
            matrix[rows, layer.indices] = layer.weights
    return path
