"""``fnsft similarity``: whether neighbours in a collaboration graph are described alike."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from fnsft.artifacts.measures import Source
from fnsft.cli.flags import add_names
from fnsft.config.stages import SimilaritySettings
from fnsft.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from fnsft.artifacts.descriptions import Description
    from fnsft.artifacts.similarity import Similarity

SETTINGS = SimilaritySettings


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the files that the stage reads and writes, and the graph's names in tables."""
    parser.add_argument("--graph", type=Path, required=True, help="collaboration graph")
    parser.add_argument(
        "--descriptions", type=Path, required=True, help="descriptions of fnsft describe"
    )
    parser.add_argument("--output", type=Path, required=True, help="similarities, .jsonl")
    add_names(parser, "graph", shown_in="tables")
    parser.add_argument("--source", required=True, choices=get_args(Source), help="whose graph")


def run(arguments: argparse.Namespace, settings: SimilaritySettings) -> None:
    """Rank every layer's connections, and beside a model's own as many random ones."""
    from tqdm import tqdm

    from fnsft.artifacts.descriptions import read_descriptions
    from fnsft.artifacts.graphs import graph_model, read_graph, require_stored
    from fnsft.artifacts.manifest import recorded_stage
    from fnsft.artifacts.similarity import Similarity, write_similarity
    from fnsft.artifacts.storage import require_suffix
    from fnsft.artifacts.tensors import require_neurons

    require_suffix(arguments.output, ".jsonl")
    inputs = {"graph": arguments.graph, "descriptions": arguments.descriptions}
    with recorded_stage(settings, inputs, arguments.output) as record:
        identity = graph_model(arguments.graph)
        descriptions = read_descriptions(arguments.descriptions, identity)
        graph = read_graph(arguments.graph)
        require_neurons(arguments.graph, graph.neurons, "mlp")  # which descriptions are of
        require_stored(settings.k, graph.k_max)
        run_of = {
            "model": arguments.model_name,
            "task": arguments.task,
            "graph": arguments.graph_name,
            "seed": arguments.run_seed,
            "descriptions": descriptions.header.source,
            "k": settings.k,
            "n_random": settings.n_random,
            "confidence": settings.confidence,
            "embedding": settings.embedding,
            "embedding_model": settings.embedding_model and Path(settings.embedding_model).name,
            "n_components": settings.n_components,
            "draw_seed": settings.seed,
        }
        by_layer = itertools.groupby(descriptions, key=lambda one: one.layer)
        layer_of_next, found = next(by_layer, (None, iter(())))
        rows: list[Similarity] = []
        for number in tqdm(range(graph.n_layers), "similarity", unit="layer", disable=None):
            texts: list[Description] = []
            if layer_of_next == number:
                texts = list(found)
                layer_of_next, found = next(by_layer, (None, iter(())))
            first, second, _ = graph.layers[number].nearest(settings.k)
            vectors, defined = described(texts, graph.d_mlp, settings)
            for source, measures in compared(
                (first, second), vectors, defined, arguments.source, settings, number
            ):
                rows += [
                    Similarity(**run_of, source=source, layer=number, **measure)  # type: ignore[arg-type]
                    for measure in measures
                ]
        if layer_of_next is not None:
            raise InputError(
                f"{arguments.descriptions}: expected {graph.n_layers} layers, as the graph has, "
                f"found layer {layer_of_next}; describe this model"
            )
        if not any(row.n for row in rows):
            raise InputError(
                f"{arguments.graph}: expected connections of described neurons, found none; use "
                "more data"
            )
        write_similarity(arguments.output, rows)
        measured = {row.layer for row in rows if row.n}
        record.note(
            rows=len(rows),
            layers_without_connection=[n for n in range(graph.n_layers) if n not in measured],
        )
    print(f"{arguments.output}: {summary(rows, arguments.source, settings.q[0])}", file=sys.stderr)


def described(
    descriptions: "list[Description]", d_mlp: int, settings: SimilaritySettings
) -> "tuple[np.ndarray, np.ndarray]":
    """Embed a layer's valid descriptions; return every neuron's vector and whether it has one."""
    import numpy as np

    from fnsft.neurons.embeddings import embed
    from fnsft.neurons.similarity import neuron_vectors

    valid = [one for one in descriptions if one.score > 0 and one.text.strip()]
    if any(one.neuron >= d_mlp for one in valid):
        raise InputError(
            f"descriptions: expected {d_mlp} neurons a layer, as the graph has, found more; "
            "describe this model"
        )
    if not valid:
        return np.zeros((d_mlp, 1), dtype=np.float32), np.zeros(d_mlp, dtype=bool)
    vectors = embed([one.text for one in valid], settings)
    scores = np.array([one.score for one in valid])
    neurons = np.array([one.neuron for one in valid])
    return neuron_vectors(vectors, scores, neurons, d_mlp)


def compared(
    connections: "tuple[np.ndarray, np.ndarray]",
    vectors: "np.ndarray",
    defined: "np.ndarray",
    source: str,
    settings: SimilaritySettings,
    layer: int,
) -> "Iterator[tuple[str, list[dict[str, float | None]]]]":
    """Yield the numbers of a layer's connections, and of the model's random ones, for each q."""
    import numpy as np

    from fnsft.neurons.similarity import Share, random_neighbours, rank_connections, top_shares

    ends, nothing = (*settings.q, 100.0), Share(0, 0.0, None, 0.0)
    rng = np.random.default_rng((settings.seed, layer))
    rows, columns = connections
    n_graph = len(rows)
    for name in (source, "random-neighbours") if source == "model" else (source,):
        if name == "random-neighbours":
            rows, columns = random_neighbours(rows[defined[rows] & defined[columns]], defined, rng)
        found = rank_connections(vectors, defined, rows, columns, settings.n_random, rng)
        n = len(found.rows)
        shares = [(nothing, nothing)] * len(ends)
        if n:
            shares = top_shares(found, ends, settings.confidence)
        yield (
            name,
            [
                {
                    "q": q,
                    "n": n,
                    "n_top": top.n,
                    "stderr_top": top.stderr,
                    "expected_top": top.expected if n else None,
                    "n_bin": within.n,
                    "stderr_bin": within.stderr,
                    "expected_bin": within.expected if n else None,
                    "similarity": float(found.similarity.mean(dtype=np.float64)) if n else None,
                    "random_similarity": float(found.random_similarity.mean()) if n else None,
                    "n_neurons": len(np.unique(found.rows)),
                    "n_undescribed": int((~defined).sum()),
                    "n_left_out": n_graph - n,
                }
                for q, (top, within) in zip(ends, shares, strict=True)
            ],
        )


def summary(rows: "list[Similarity]", source: str, q: float) -> str:
    """Say how many connections there are, and what share is in the smallest top."""
    texts = []
    for name in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == name and row.q == q]
        if n := sum(row.n for row in own):
            texts.append(f"{sum(row.n_top for row in own) / n:.1%} ({name})")
    n = sum(row.n for row in rows if row.source == source and row.q == q)
    return f"{n:,} connections; in the top {q:g} %: {', '.join(texts)}"
