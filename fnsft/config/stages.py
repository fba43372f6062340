"""The settings of every stage: one frozen dataclass each, every default with its source.

Sources: "2026" and "2025" are the two CollabMask papers (openreview Faoy8aclzJ and
5sLaujF45C); "ours" is a choice that ``docs/decisions.md`` argues.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fnsft.config.settings import Settings, setting
from fnsft.errors import InputError

Method = Literal["sft", "lora", "projections-only", "random", "highest", "gmt", "collab"]
MASKED_METHODS: tuple[str, ...] = ("random", "highest", "gmt", "collab")
Affinity = Literal["knn", "cluster", "dense", "shuffled", "cluster-shuffled"]
CLUSTER_AFFINITIES: tuple[str, ...] = ("cluster", "cluster-shuffled")


@dataclass(frozen=True)
class WorldSettings(Settings):
    """The embedded default: a small synthetic world of people, sums and functions (ours)."""

    stage: ClassVar[str] = "world"

    documents: int = setting(22_000, "documents in the pretraining corpus", above=0)
    math_train: int = setting(2_000, "word problems for fine-tuning", above=0)
    math_test: int = setting(400, "held-out word problems", above=0)
    code_train: int = setting(2_000, "code instructions for fine-tuning", above=0)
    code_test: int = setting(240, "held-out functions with tests", above=0, maximum=280)
    seed: int = setting(0, "seed of the world", minimum=0)


@dataclass(frozen=True)
class PretrainSettings(Settings):
    """A byte-level BPE tokenizer and a Llama-shaped base model, trained from scratch (ours)."""

    stage: ClassVar[str] = "pretrain"

    vocab_size: int = setting(704, "tokens of the tokenizer", minimum=300)
    d_model: int = setting(128, "width of the residual stream", above=0)
    n_layers: int = setting(4, "decoder blocks", above=0)
    d_mlp: int = setting(384, "MLP neurons a layer", above=0)
    n_heads: int = setting(4, "attention heads", above=0)
    initial_std: float = setting(0.06, "standard deviation of the initial weights", above=0)
    steps: int = setting(1_000, "optimizer steps; 0 saves the random initialisation", minimum=0)
    batch_size: int = setting(8, "sequences a step", above=0)
    sequence_tokens: int = setting(128, "tokens a sequence", above=1)
    learning_rate: float = setting(2e-3, "peak of the cosine schedule", above=0)
    weight_decay: float = setting(0.1, "decoupled weight decay of matrices", minimum=0)
    seed: int = setting(0, "seed of initialisation and order", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % (2 * self.n_heads):
            raise InputError(
                f"d_model: expected a multiple of {2 * self.n_heads} (an even width for each of "
                f"n_heads={self.n_heads}), found {self.d_model}"
            )


@dataclass(frozen=True)
class TwinSettings(Settings):
    """A model's control: the same shape and tokenizer, weights drawn anew (ours)."""

    stage: ClassVar[str] = "twin"

    seed: int = setting(0, "seed of the initialisation", minimum=0)


@dataclass(frozen=True)
class FetchSettings(Settings):
    """A model, a split of a data set, or a wheel, from the network."""

    stage: ClassVar[str] = "fetch"

    kind: Literal["model", "dataset", "wheel"] = setting("model", "what is fetched")
    name: str = setting("", "name on the hub, or a requirement such as name==1.0 for a wheel")
    revision: str = setting("main", "revision on the hub")
    config: str | None = setting(None, "configuration of the data set")
    split: str | None = setting(None, "split of the data set")


@dataclass(frozen=True)
class ConvertSettings(Settings):
    """Quantised weights, made plain."""

    stage: ClassVar[str] = "convert"

    dtype: Literal["float32", "bfloat16"] = setting("bfloat16", "precision of the saved weights")


@dataclass(frozen=True)
class PrepareSettings(Settings):
    """Rows of a data set become rendered prompts and completions, split and sampled."""

    stage: ClassVar[str] = "prepare"

    format: Literal["gsm8k", "alpaca", "medical-o1"] = setting("gsm8k", "schema of the rows")
    n_train: int = setting(4_000, "training samples drawn (2026)", above=0)
    n_validation: int = setting(1_000, "validation samples, fixed by split_seed (2026)", above=0)
    n_test: int | None = setting(None, "first test samples kept; all when absent", above=0)
    calculator_annotations: Literal["keep", "strip"] = setting(
        "keep", "GSM8K's <<2+3=5>> annotations in worked answers"
    )
    split_seed: int = setting(0, "seed of the validation split", minimum=0)
    seed: int = setting(0, "seed of the training sample", minimum=0)


@dataclass(frozen=True)
class StatisticsSettings(Settings):
    """Token counts and ranks over the training split as rendered."""

    stage: ClassVar[str] = "statistics"

    max_tokens: int = setting(1_024, "longer samples are left out and counted (ours)", above=1)


@dataclass(frozen=True)
class CaptureSettings(Settings):
    """Which MLP neurons are activated by every token, bit-packed."""

    stage: ClassVar[str] = "capture"
    version: ClassVar[int] = 2

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
class TrainSettings(Settings):
    """One fine-tuning run of one method."""

    stage: ClassVar[str] = "train"

    method: Method = setting("sft", "what may change")
    fraction: float | None = setting(
        None, "share p of each MLP matrix that survives a step", above=0, maximum=1
    )
    lam: float = setting(
        0.5, "weight λ of the neighbours in the score (2026)", minimum=0, maximum=1
    )
    affinity: Affinity | None = setting(None, "how the graph's neighbours weigh in (collab)")
    k: int = setting(20, "neighbours of the kNN affinity (ours)", above=0)
    mutual: bool = setting(False, "keep a neighbour only when both are each other's (ours)")
    window: int = setting(4, "batches whose mean gradient GMT ranks (ours)", above=0)
    rescale: bool = setting(False, "random: divide the survivors by p (Child-Tuning-F)")
    applies_to: Literal["gradient", "update"] = setting(
        "gradient", "the mask holds back the gradient, or the whole update"
    )
    moments: Literal["full", "masked", "frozen"] = setting(
        "full", "what Adam's moments see outside the mask (update)"
    )
    mask_before_clipping: bool = setting(True, "clip the masked gradient, not the full one")
    unmasked: Literal["train", "freeze"] = setting(
        "train", "parameters without a mask: trained (2026) or frozen"
    )
    learning_rate: float = setting(1e-5, "peak learning rate (2026)", above=0)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "decay (ours)")
    warmup_share: float = setting(0.0, "share of the steps that warm up", minimum=0, below=1)
    epochs: int = setting(3, "passes over the data; the best is kept (2026)", above=0)
    batch_size: int = setting(32, "samples an optimizer step (2026)", above=0)
    micro_batch_size: int = setting(8, "samples a forward pass", above=0)
    weight_decay: float = setting(0.01, "decoupled weight decay (2026)", minimum=0)
    adam_beta1: float = setting(0.9, "decay of the first moment", minimum=0, below=1)
    adam_beta2: float = setting(0.999, "decay of the second moment", minimum=0, below=1)
    max_grad_norm: float = setting(1.0, "gradient clipping; 0 switches it off", minimum=0)
    max_tokens: int = setting(1_024, "longer samples are left out and counted (ours)", above=1)
    lora_rank: int = setting(16, "rank of LoRA (ours)", above=0)
    lora_alpha: int = setting(32, "scale of LoRA (ours)", above=0)
    bf16_autocast: bool = setting(
        False, "compute in bfloat16; weights and Adam's moments stay in float32"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations to save memory")
    validations: int = setting(20, "points of the validation curve (2026)", above=0)
    seed: int = setting(0, "seed of masks and adapters", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.fraction is not None) != (self.method in MASKED_METHODS):
            need = "needs a fraction in (0, 1]" if self.fraction is None else "takes no fraction"
            raise InputError(f"fraction: method {self.method!r} {need}, found {self.fraction}")
        if (self.affinity is not None) != (self.method == "collab"):
            raise InputError(
                f"affinity: needed by method 'collab' alone, found {self.affinity!r} "
                f"with method {self.method!r}"
            )
        if self.mutual and self.affinity not in ("knn", "shuffled"):
            raise InputError(
                f"mutual: expected the affinity knn or shuffled, found {self.affinity}; "
                "leave it off"
            )
        if self.rescale and (self.method, self.applies_to) != ("random", "gradient"):
            raise InputError("rescale: divides a random mask's gradient; leave it off elsewhere")
        if self.batch_size % self.micro_batch_size:
            raise InputError(
                f"batch_size: expected a multiple of micro_batch_size={self.micro_batch_size}, "
                f"found {self.batch_size}"
            )


@dataclass(frozen=True)
class EvaluateSettings(Settings):
    """Generation, cloze and perplexity of one model."""

    stage: ClassVar[str] = "evaluate"

    batch_size: int = setting(64, "prompts a generation batch", above=0)
    max_new_tokens: int = setting(256, "longest answer that is generated", above=0)
    gsm8k_limit: int | None = setting(None, "first problems answered; all when absent", above=0)
    perplexity_limit: int | None = setting(
        None, "first samples whose perplexity is taken; all when absent", above=0
    )
    max_tokens: int = setting(1_024, "longer samples are left out and counted", above=1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "precision of the weights")


@dataclass(frozen=True)
class ChooseSettings(Settings):
    """The learning rate of every method with the lowest mean validation perplexity."""

    stage: ClassVar[str] = "choose"


@dataclass(frozen=True)
class TableSettings(Settings):
    """Models by methods, one row a fraction for masked methods, an average row (2026, Table 1)."""

    stage: ClassVar[str] = "table"

    benchmark: str = setting("gsm8k", "benchmark whose records are tabulated")
    metric: str = setting("accuracy", "metric of the benchmark")
    models: tuple[str, ...] = setting((), "models, in the order of the rows")
    methods: tuple[str, ...] = setting((), "methods, in the order of the columns")
    controls: tuple[str, ...] = setting((), "methods shown apart, after a rule")
    model_labels: tuple[str, ...] = setting((), "how the models are called, in that order")
    title: str = setting("", "first sentence of the caption")
    layout: Literal["columns", "rows"] = setting("columns", "where the methods stand")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_labels(self.models, self.model_labels)


FigureKind = Literal[
    "perplexity",  # validation perplexity over epochs (2026)
    "sweep",  # validation perplexity over hyperparameters
    "agreement",  # Rand and adjusted Rand by layer
    "structure",  # Score over Null, modularity, kNN overlap and hubs by layer
    "overlap",  # what the graph changes about a mask, by layer
    "scores",  # histograms of Score over Null
    "activations",  # distributions of sampled neurons' activations (A.2)
    "influence",  # token influence by rank for several β (A.3)
    "clusters",  # t-SNE of the spectral embedding
]


@dataclass(frozen=True)
class FigureSettings(Settings):
    """One figure of a kind, drawn from the files that the kind asks for."""

    stage: ClassVar[str] = "figure"

    kind: FigureKind = setting("perplexity", "what is drawn")
    models: tuple[str, ...] = setting((), "models, in the order of the panels")
    methods: tuple[str, ...] = setting((), "methods, in the order of the legend")
    axes: tuple[str, ...] = setting((), "sweep: the hyperparameter that each input varies")
    values: tuple[float, ...] = setting((), "sweep: its value in each input")
    betas: tuple[float, ...] = setting((0.0, 0.65, 1.3, 2.0), "influence: the exponents", minimum=0)
    layers: tuple[int, ...] = setting((), "clusters, activations: layers; four when absent")
    model_labels: tuple[str, ...] = setting((), "how the models are called, in that order")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_labels(self.models, self.model_labels)


def _check_labels(models: tuple[str, ...], labels: tuple[str, ...]) -> None:
    if labels and len(labels) != len(models):
        raise InputError(
            f"model_labels: expected one for each of {len(models)} models, found {len(labels)}"
        )
