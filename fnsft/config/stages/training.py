"""Settings of fine-tuning and evaluation."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from fnsft.config.settings import Settings, setting
from fnsft.errors import InputError

# Methods with a share p of each matrix (hft: of the matrices), and all that have masks.
FractionMethod = Literal["random", "child-tuning-d", "hft", "highest", "gmt", "collab"]
Method = Literal["sft", "lora", "projections-only", FractionMethod, "network"]
FRACTION_METHODS: tuple[str, ...] = get_args(FractionMethod)
MASKED_METHODS: tuple[str, ...] = (*FRACTION_METHODS, "network")
Affinity = Literal["knn", "cluster", "dense", "shuffled", "cluster-shuffled"]
CLUSTER_AFFINITIES: tuple[str, ...] = ("cluster", "cluster-shuffled")


@dataclass(frozen=True)
class TrainSettings(Settings):
    """One fine-tuning run of one method."""

    stage: ClassVar[str] = "train"
    version: ClassVar[int] = 2

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
    fisher_samples: int | None = setting(
        None, "samples whose Fisher information child-tuning-d ranks; all when absent", above=0
    )
    neurons: Literal["only", "all-but"] = setting(
        "only", "network: train the listed neurons only, or all but them"
    )
    adapters: bool = setting(False, "network: train and mask LoRA adapters, not the weights")
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
    checkpoint_steps: int = setting(
        0, "optimizer steps between checkpoints; 0: one at each epoch's end", minimum=0
    )
    telemetry_steps: int = setting(
        10, "optimizer steps between records of the masks; 0 switches them off", minimum=0
    )
    parallel: Literal["fsdp", "ddp"] = setting(
        "fsdp", "how several processes share a run: FSDP2 shards the model, DDP copies it"
    )
    validations: int = setting(20, "points of the validation curve (2026)", above=0)
    seed: int = setting(0, "seed of masks and adapters", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.fraction is not None) != (self.method in FRACTION_METHODS):
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
        if self.method in ("hft", "network") and self.applies_to != "update":
            raise InputError(
                f"applies_to: method {self.method!r} leaves entries as they are, which only "
                f"'update' does (weight decay moves them otherwise), found {self.applies_to!r}"
            )
        if self.adapters and self.method != "network":
            raise InputError(
                f"adapters: needs method 'network', found {self.method!r}: an entry of a weight "
                "has no parameter of its own in a low-rank product, a neuron has its row of B or "
                "column of A; mask the weights themselves, or use method 'lora' without a mask"
            )
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
