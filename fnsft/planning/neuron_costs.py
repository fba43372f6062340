"""What it costs to record neurons, to make graphs and networks of them, and to describe them.

Symbols: those of :mod:`fnsft.planning.passes`; t tokens, C clusters or components, k neighbours.
Operations of the host are counted to the order of the algorithm; the rate says what one costs.
"""

import math
from dataclasses import replace

from fnsft.artifacts.activations import DumpShape
from fnsft.config.stages import (
    CaptureSettings,
    ClusterSettings,
    DescribeSettings,
    MeasureSettings,
    NetworksSettings,
    OverlapSettings,
    ProjectSettings,
    SimilaritySettings,
    TrainSettings,
)
from fnsft.planning.known import Model, Neurons, Samples
from fnsft.planning.passes import WIDTH, both, forward, forward_flops, inference_memory, loaded
from fnsft.planning.training_costs import NEIGHBOUR_SHARE
from fnsft.planning.work import Cost, Dtype, Work

RECORD_OPERATIONS = 8  # a neuron and token of a dump: copied from the device, compared, packed
DESCRIBE_OPERATIONS = 150  # a neuron and token of a description: kept where among the largest
KMEANS_PASSES = 50  # iterations of all starts together
EIGEN_PASSES = 20  # matrix-vector products an eigenvector
NETWORK_BYTES = 20.0  # of a neuron and component: loading, membership, and both in JSON
DESCRIPTION_BYTES = 53  # of one of two of a neuron, compressed


def capture_cost(model: Model, samples: Samples, settings: CaptureSettings) -> tuple[Cost, Neurons]:
    """Return the cost of a dump of L·N·t bits, of ``sampled_tokens`` values, and the dump."""
    shape = model.shape(TrainSettings(method="random", neurons=settings.neurons))
    size_of_graph = (shape.graph_layers, shape.graph_width)
    dump = DumpShape(*size_of_graph, round(samples.tokens), settings.sampled_tokens)
    size = dump.n_bytes + 8.0 * samples.tokens
    work = both(loaded(model, settings.dtype), _record(model, samples, settings, settings.dtype))
    work = work.plus(disk_bytes=size, tokens_read=samples.tokens)
    longest = min(samples.longest, settings.max_tokens)
    memory = inference_memory(shape, settings.dtype, settings.batch_size, longest, logits=False)
    neurons = Neurons(model.name, *size_of_graph, samples.tokens, size)
    return Cost(work, memory, size, model=model.name, method="capture"), neurons


def project_cost(dump: Neurons, settings: ProjectSettings) -> tuple[Cost, Neurons]:
    """Return the cost of L·N²/2·t products of bits, and the graph.

    Memory: a layer's bits and its weights [N, N] in float64 where all are kept.
    """
    tokens = dump.tokens / (1 if settings.documents == "all" else 2)
    pairs = dump.layers * dump.d_mlp**2 / 2
    size = 4.0 * dump.layers * dump.d_mlp**2
    if not settings.dense:
        size = 8.0 * dump.layers * dump.d_mlp * min(settings.k_max, dump.d_mlp)
    shuffled = 10 * dump.layers * dump.d_mlp * tokens if settings.shuffle_tokens else 0
    work = Work(
        start="kernels",
        bit_products=pairs * tokens,
        host_operations=shuffled,
        disk_bytes=dump.disk_bytes + size,
    )
    memory = dump.d_mlp * (dump.tokens / 8 + 12 * dump.d_mlp)
    graph = replace(dump, disk_bytes=size, kept=settings.k_max)
    return Cost(work, memory, size, model=dump.model, method="project"), graph


def cluster_cost(graph: Neurons, settings: ClusterSettings) -> Cost:
    """Return the cost of each layer's eigenvectors and k-means."""
    n, vectors = graph.d_mlp, settings.n_eigenvectors
    kmeans = KMEANS_PASSES * 2 * n * vectors * settings.n_clusters
    eigen = EIGEN_PASSES * vectors * n * (4 * settings.k + 4 * vectors)
    size = graph.layers * n * (4.0 * vectors + 16)
    work = Work(
        start="arrays",
        host_operations=graph.layers * (kmeans + eigen),
        disk_bytes=graph.disk_bytes + size,
    )
    return Cost(work, 16.0 * n * vectors, size, model=graph.model, method="cluster")


def measure_cost(
    model: Model, graph: Neurons, unseen: Neurons, clusters: int, settings: MeasureSettings
) -> Cost:
    """Return the cost of scores on unseen tokens, k-means on the parameters, and agreements."""
    n, d_model = graph.d_mlp, model.shape().d_model
    scores = 2 * n * unseen.tokens * (2 + clusters)
    kmeans = KMEANS_PASSES * 2 * n * d_model * clusters
    work = Work(
        start="model",
        host_operations=graph.layers * (scores + kmeans),
        disk_bytes=model.disk_bytes + unseen.disk_bytes + 3 * graph.disk_bytes,
    )
    shape = model.shape()
    memory = 4.0 * shape.parameters + n * unseen.tokens
    return Cost(work, memory, 1e5, model=model.name, method="measure")


def networks_cost(model: Model, data: Samples, sets: int, settings: NetworksSettings) -> Cost:
    """Return the cost of activations of some samples, their principal and independent components.

    The components are found in some seven passes over activations that lie on the disk.
    """
    shape = model.shape()
    samples = data.first(settings.samples)
    samples = replace(samples, n=samples.n * sets)
    values = shape.layers * shape.d_mlp * samples.tokens
    rank = 2 * settings.n_components + 10
    work = both(
        loaded(model, settings.dtype),
        forward(shape, samples, settings.batch_size, settings.dtype, with_head=False),
    )
    work = work.plus(array_operations=7 * 2 * rank * values, disk_bytes=8 * 2 * values)
    length = min(samples.longest, settings.max_tokens)
    memory = inference_memory(shape, settings.dtype, settings.batch_size, length, logits=False)
    kept = NETWORK_BYTES * settings.n_components * shape.layers * shape.d_mlp
    return Cost(work, memory, kept, 2 * values, model.name, "networks")


def describe_cost(model: Model, samples: Samples | None, settings: DescribeSettings) -> Cost:
    """Return the cost of every neuron's top tokens; without samples, of reading a database."""
    shape = model.shape()
    kept = 2.0 * DESCRIPTION_BYTES * shape.layers * shape.d_mlp
    if samples is None:
        work = Work(
            start="model", disk_bytes=kept, host_operations=1e5 * shape.layers * shape.d_mlp
        )
        return Cost(work, 0.0, kept, model=model.name, method="describe")
    read = samples.first(settings.samples)
    work = both(
        loaded(model, settings.dtype),
        forward(shape, read, settings.batch_size, settings.dtype, with_head=False),
    )
    work = work.plus(
        array_operations=DESCRIBE_OPERATIONS * shape.layers * shape.d_mlp * read.tokens,
        tokens_read=read.tokens,
        disk_bytes=kept,
    )
    length = min(read.longest, settings.max_tokens)
    memory = inference_memory(shape, settings.dtype, settings.batch_size, length, logits=False)
    return Cost(work, memory, kept, model=model.name, method="describe")


def similarity_cost(graph: Neurons, settings: SimilaritySettings) -> Cost:
    """Return the cost of embedding 2·N texts a layer and ranking N·k pairs among random ones.

    An embedding is some 3e5 operations a component and 1,000 texts; of the model's own graph
    random neighbours are ranked too.
    """
    n, dims = graph.d_mlp, settings.n_components
    embedded = 2 * n * 3e2 * dims * 20
    ranked = 2 * 2 * n * settings.k * settings.n_random * dims
    work = Work(start="arrays", host_operations=graph.layers * (embedded + ranked))
    memory = 2.0 * n * dims * 8 + 4.0 * n * settings.n_random * dims
    return Cost(work, memory, 5e4, model=graph.model, method="similarity")


def overlap_cost(model: Model, samples: Samples, settings: OverlapSettings) -> Cost:
    """Return the cost of some gradients in float32, and four masks of each matrix."""
    from fnsft.masks.gradients import PASS_SAMPLES
    from fnsft.training.memory import estimate

    shape = model.shape()
    read = samples.first(settings.batches * settings.batch_size)
    batches = math.ceil(read.n / settings.batch_size)
    padded = read.padded(settings.batch_size)
    collab = 1 + settings.k * NEIGHBOUR_SHARE
    work = replace(loaded(model, "float32"), start="training").plus(
        flops=3 * forward_flops(shape, read.n * padded, padded),
        layer_passes=3 * batches * (shape.layers + 1),
        selected_entries=batches * shape.mlp * (2 + 2 * collab),
    )
    # As a training of the MLP matrices alone, without Adam's moments.
    passed = min(PASS_SAMPLES, settings.batch_size)
    as_trained = TrainSettings(
        method="projections-only", batch_size=passed, micro_batch_size=passed
    )
    held = estimate(shape, as_trained, read.longest)
    memory = held.weights + held.gradients + held.activations + 3 * 5 * shape.largest_mlp
    return Cost(work, memory, 1e5, model=model.name, method="overlap")


def _record(model: Model, samples: Samples, settings: CaptureSettings, dtype: Dtype) -> Work:
    shape = model.shape()
    values = shape.layers * shape.d_mlp * samples.tokens
    return forward(shape, samples, settings.batch_size, dtype, with_head=False).plus(
        host_operations=RECORD_OPERATIONS * values * WIDTH[dtype] / 4
    )
