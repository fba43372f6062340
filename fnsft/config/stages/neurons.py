"""Settings from token statistics to graphs, clusters and their measures."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fnsft.config.settings import Settings, setting
from fnsft.errors import InputError

# What a neuron is: one of an MLP (of an expert), or a channel of an attention head's output.
Neurons = Literal["mlp", "heads"]


@dataclass(frozen=True)
class StatisticsSettings(Settings):
    """Token counts and ranks over the training split as rendered."""

    stage: ClassVar[str] = "statistics"

    max_tokens: int = setting(1_024, "longer samples are left out and counted (ours)", above=1)


@dataclass(frozen=True)
class CaptureSettings(Settings):
    """Which neurons are activated by every token, bit-packed."""

    stage: ClassVar[str] = "capture"
    version: ClassVar[int] = 2

    neurons: Neurons = setting("mlp", "those of MLPs (and experts), or attention heads' channels")
    batch_size: int = setting(16, "samples a forward pass", above=0)
    max_tokens: int = setting(1_024, "longer samples are left out and counted (ours)", above=1)
    dtype: Literal["float64", "float32", "bfloat16"] = setting(
        "float32", "precision of the forward pass; in float64 batches change no bit"
    )
    sampled_tokens: int = setting(
        0, "tokens, evenly spaced, whose activation values are kept as float16", minimum=0
    )


@dataclass(frozen=True)
class ProjectSettings(Settings):
    """The hypergraph of activated neurons, projected to a weighted graph (2026)."""

    stage: ClassVar[str] = "project"
    version: ClassVar[int] = 2

    alpha: float = setting(2.5, "exponent of the hyperedge size (2026)", minimum=0)
    beta: float = setting(1.3, "exponent of the token's frequency rank (2026)", minimum=0)
    drop_top_tokens: int = setting(3, "most frequent tokens without hyperedge (2026)", minimum=0)
    k_max: int = setting(64, "largest weights kept a neuron (ours)", above=0)
    dense: bool = setting(False, "keep all weights, for the ablation without kNN")
    normalise: Literal["none", "cosine", "degree"] = setting(
        "none", "raw weights (2026), or divided by the root of both neurons' mass or degree (ours)"
    )
    documents: Literal["all", "even", "odd"] = setting(
        "all", "samples that make hyperedges: all, or one of two disjoint halves (ours)"
    )
    shuffle_tokens: bool = setting(
        False, "permute every neuron's bits over the tokens: the null of no co-activation (ours)"
    )
    seed: int = setting(0, "seed of shuffle_tokens", minimum=0)
    device: Literal["cpu", "accelerator"] = setting(
        "cpu", "what multiplies: the CPU, or a GPU, in half precision (ours)"
    )


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """A spectral clustering of every layer's kNN graph (2025; its numbers are ours)."""

    stage: ClassVar[str] = "cluster"

    k: int = setting(20, "neighbours of the kNN graph", above=0)
    n_eigenvectors: int = setting(32, "non-trivial eigenvectors of the Laplacian", above=0)
    n_clusters: int = setting(32, "clusters of k-means before any is split", above=0)
    min_entropy_bits: float = setting(
        4.0, "split the largest cluster until the partition carries this; 0: never", minimum=0
    )
    seed: int = setting(0, "seed of k-means and of the eigensolver's start", minimum=0)


@dataclass(frozen=True)
class MeasureSettings(Settings):
    """Whether a graph and its clusters mean anything: scores, agreement, hubs (ours, 2025)."""

    stage: ClassVar[str] = "measure"

    k: int = setting(20, "neighbours of the kNN graph", above=0)
    shuffle_tokens: bool = setting(
        False, "permute every neuron's bits over the unseen tokens too (the null)"
    )
    seed: int = setting(0, "seed of k-means on the parameters and of shuffle_tokens", minimum=0)


@dataclass(frozen=True)
class OverlapSettings(Settings):
    """What the graph changes about a mask, on gradients of the untrained model (ours)."""

    stage: ClassVar[str] = "overlap"

    fraction: float = setting(0.7, "share p of each MLP matrix that survives", above=0, maximum=1)
    lam: float = setting(0.5, "weight λ of the neighbours in the score", minimum=0, maximum=1)
    k: int = setting(20, "neighbours of the kNN affinity", above=0)
    batches: int = setting(8, "batches whose gradients are masked", above=0)
    batch_size: int = setting(16, "samples a batch", above=0)
    max_tokens: int = setting(1_024, "longer samples are left out and counted", above=1)
    seed: int = setting(0, "seed of the masks and of the shuffled graph", minimum=0)


@dataclass(frozen=True)
class DescribeSettings(Settings):
    """What every MLP neuron responds to, in its own top tokens or from a database (ours)."""

    stage: ClassVar[str] = "describe"
    version: ClassVar[int] = 2

    n_tokens: int = setting(10, "extreme activations of a sign that its words are from", above=0)
    n_contexts: int = setting(3, "pieces of text kept of a description", minimum=0)
    samples: int | None = setting(None, "first samples that are read; all when absent", above=1)
    batch_size: int = setting(16, "samples a forward pass", above=0)
    max_tokens: int = setting(1_024, "longer samples are left out and counted (ours)", above=1)
    dtype: Literal["float64", "float32", "bfloat16"] = setting(
        "float32", "precision of the forward pass; in float64 batches change no description"
    )
    columns: tuple[str, ...] = setting(
        (), "database: its columns where they are not recognised, such as layer=block"
    )


@dataclass(frozen=True)
class SimilaritySettings(Settings):
    """Whether neighbours in a graph are described alike (2026, Tables 4 and 5)."""

    stage: ClassVar[str] = "similarity"
    version: ClassVar[int] = 2

    k: int = setting(5, "neighbours of a neuron in the graph (2026)", above=0)
    n_random: int = setting(200, "random neurons that each neighbour is ranked among", above=0)
    q: tuple[float, ...] = setting(
        (5.0, 10.0, 20.0, 30.0, 50.0), "top shares, in percent", above=0, below=100
    )
    confidence: float = setting(
        0.9, "of the bound on a rank's share, one-sided", minimum=0.5, below=1
    )
    embedding: Literal["tfidf", "sentence-transformers"] = setting(
        "tfidf", "of texts: n-grams of characters, or a sentence model (pip extra sentence)"
    )
    embedding_model: str | None = setting(None, "sentence-transformers: the model's folder")
    n_components: int = setting(128, "tfidf: dimensions that are kept (ours)", above=0)
    seed: int = setting(0, "seed of the random neurons and of the embedding", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.q or list(self.q) != sorted(set(self.q)):
            raise InputError(f"q: expected shares in ascending order, found {list(self.q)}")
        if (self.embedding_model is None) != (self.embedding == "tfidf"):
            raise InputError(
                "embedding_model: needed with embedding sentence-transformers and only then, "
                f"found {self.embedding_model!r} with {self.embedding!r}"
            )
