"""Settings of fine-tuning and evaluation."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from fnsft.config.settings import Settings, setting
from fnsft.config.stages.neurons import Neurons
from fnsft.errors import InputError

# Methods with a share p of each matrix (hft: of the matrices).
FractionMethod = Literal[
    "random",
    "child-tuning-d",
    "hft",
    "highest",
    "gmt",
    "collab",
    "mofo",
    "small-weights",
    "active-neurons",
    "ssu",
    "lift",
    "collab-static",
]
Method = Literal["sft", "lora", "projections-only", FractionMethod]
FRACTION_METHODS: tuple[str, ...] = get_args(FractionMethod)
# Methods whose masks hold back the whole update, by their definition.
UPDATE_METHODS: tuple[str, ...] = (
    *("hft", "mofo", "small-weights", "lift"),
    *("active-neurons", "collab-static", "ssu"),
)
# Methods that rank whole neurons of the untouched model, and let them train or protect them.
NEURON_METHODS: tuple[str, ...] = ("active-neurons", "collab-static")
# The same of these, and of columns.
RANKED_METHODS: tuple[str, ...] = (*NEURON_METHODS, "ssu")
Polarity = Literal["train", "protect"]
# Methods whose masks are drawn once, of the stage's first weights and its data.
DRAWN_METHODS: tuple[str, ...] = ("child-tuning-d", "lift", *RANKED_METHODS)
# What networks do: to the forward pass, or to the update. The older words stand for the first.
ForwardMode = Literal["lesion", "preserve"]
MaskMode = Literal[ForwardMode, "train-only", "freeze", "key", "complement"]
FORWARD_MODES: tuple[str, ...] = get_args(ForwardMode)
OLDER_WORDS = {"key": "lesion", "complement": "preserve"}
# What masks on the update do to networks, in the word that all selectors of neurons share.
POLARITIES: dict[str, Polarity] = {"train-only": "train", "freeze": "protect"}
Affinity = Literal["knn", "cluster", "dense", "diffusion", "shuffled", "cluster-shuffled"]
CLUSTER_AFFINITIES: tuple[str, ...] = ("cluster", "cluster-shuffled")
GRAPH_METHODS: tuple[str, ...] = ("collab", "collab-static")  # what reads a graph or its clusters


# What is minimised: the loss of completions, or that of direct preference optimisation.
Objective = Literal["completion", "dpo"]


@dataclass(frozen=True)
class TrainSettings(Settings):
    """One fine-tuning run of one method."""

    stage: ClassVar[str] = "train"
    version: ClassVar[int] = 6

    method: Method = setting("sft", "what may change")
    fraction: float | None = setting(
        None,
        "share p of each MLP matrix that survives a step; absent: .5 where the method has one",
        above=0,
        maximum=1,
    )
    neurons: Neurons = setting(
        "mlp",
        "whose weights are masked: those of MLPs (and experts), or of attention heads' channels",
    )
    lam: float = setting(
        0.5, "weight λ of the neighbours in the score (2026)", minimum=0, maximum=1
    )
    affinity: Affinity | None = setting(
        None, "how the graph's neighbours weigh in (collab); absent: knn"
    )
    k: int = setting(20, "neighbours of the kNN affinity (ours)", above=0)
    diffusion_steps: int = setting(
        3, "steps of the walk over the kNN graph (affinity diffusion; ours)", above=0
    )
    diffusion_damping: float = setting(
        0.85, "how often the walk goes on (Page et al. 1999)", minimum=0, below=1
    )
    mutual: bool = setting(False, "keep a neighbour only when both are each other's (ours)")
    window: int = setting(4, "batches whose mean gradient GMT ranks (ours)", above=0)
    fisher_samples: int | None = setting(
        None, "samples whose Fisher information child-tuning-d ranks; all when absent", above=0
    )
    calibration_samples: int = setting(
        500,
        "samples that active-neurons, collab-static and ssu look at before the first step (ours)",
        above=0,
    )
    lift_rank: int = setting(
        128, "rank of lift's approximation (128 with 8B models: Liu et al. 2025)", above=0
    )
    column_score: Literal["wanda", "magnitude", "random"] = setting(
        "wanda", "how ssu ranks columns; the last two are its controls"
    )
    polarity: Polarity | None = setting(
        None,
        "networks, and neurons or columns that a method ranks highest: they alone train (train), "
        "or all others do (protect); absent: train, with ssu protect; for networks train-only and "
        "freeze say the same",
    )
    mask_mode: MaskMode | None = setting(
        None,
        "networks: lesion (key) or preserve (complement) them in the forward pass, "
        "train-only or freeze their weights",
    )
    component_ids: tuple[int, ...] = setting(
        (0,), "networks that mask_mode is about, together; absent: network 0", minimum=0
    )
    mask_layers: str = setting(
        "", "layers where networks are masked, such as 0:4,7 (0 to 3 and 7); all when absent"
    )
    random_networks: bool = setting(
        False, "in place of the networks as many random neurons of every layer (the control)"
    )
    straight_through: bool = setting(
        False, "lesion, preserve: gradients pass as if nothing were masked"
    )
    unfreeze: tuple[str, ...] = setting(
        (), "train-only: networks that join in each further epoch, such as 1,2 3"
    )
    rescale: bool = setting(False, "random: divide the survivors by p (Child-Tuning-F)")
    applies_to: Literal["gradient", "update"] | None = setting(
        None,
        "the mask holds back the gradient, or the whole update; absent: the gradient, with hft, "
        "networks and the newer selectors the update",
    )
    moments: Literal["full", "masked", "frozen"] = setting(
        "full", "what Adam's moments see outside the mask (update)"
    )
    mask_before_clipping: bool = setting(
        True, "clip by the masked gradient's norm, not the full one's (gradient, neurons, columns)"
    )
    unmasked: Literal["train", "freeze"] | None = setting(
        None,
        "parameters without a mask: trained (2026) or frozen; absent: trained, with the polarity "
        "train frozen",
    )
    compact: bool = setting(
        False,
        "train-only, freeze, methods that rank neurons or columns: gradients and moments of those "
        "that train alone, in less memory",
    )
    learning_rate: float | None = setting(
        None,
        "peak learning rate; absent: 1e-5 (2026), for LoRA 2e-4 (Dettmers et al. 2023)",
        above=0,
    )
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "decay (ours)")
    warmup_share: float = setting(0.0, "share of the steps that warm up", minimum=0, below=1)
    epochs: int = setting(3, "passes over the data; the best is kept (2026)", above=0)
    max_steps: int | None = setting(
        None, "optimizer steps at most; absent: as many as the epochs take", above=0
    )
    batch_size: int = setting(32, "samples an optimizer step (2026)", above=0)
    micro_batch_size: int = setting(8, "at most so many samples a forward pass", above=0)
    weight_decay: float = setting(0.01, "decoupled weight decay (2026)", minimum=0)
    adam_beta1: float = setting(0.9, "decay of the first moment", minimum=0, below=1)
    adam_beta2: float = setting(0.999, "decay of the second moment", minimum=0, below=1)
    max_grad_norm: float = setting(1.0, "gradient clipping; 0 switches it off", minimum=0)
    max_tokens: int = setting(1_024, "longer samples are left out and counted (ours)", above=1)
    lora_rank: int = setting(16, "rank of LoRA (ours)", above=0)
    lora_alpha: int = setting(32, "scale of LoRA (ours)", above=0)
    lora_dropout: float = setting(0.0, "dropout of LoRA's input", minimum=0, below=1)
    lora_targets: Literal["all-linear", "attention", "mlp"] = setting(
        "all-linear", "lora: layers with an adapter: all linear ones but the output, or a part"
    )
    quantise: Literal["nf4", "int8"] | None = setting(
        None, "lora: load the base model in 4 or 8 bits (QLoRA); needs bitsandbytes"
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "precision that weights are held in; in bfloat16 small updates are lost"
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = setting(
        "auto", "attention's code; auto: flash where it is installed and fits, else sdpa"
    )
    bf16_autocast: bool = setting(
        False, "compute in bfloat16; weights and Adam's moments stay in float32"
    )
    graph_samples: int = setting(
        1_000, "collab without a graph: training samples that one is made of", above=0
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
    structure: Literal["stage", "first"] = setting(
        "stage",
        "later stages of a sequence: masks of the stage's own data and draws, or those of the "
        "first stage kept",
    )
    replay_fraction: float = setting(
        0.0,
        "samples of earlier stages, as a share of the stage's own, that are mixed in (replay)",
        minimum=0,
    )
    l2_to_start: float = setting(
        0.0, "weight of the squared distance to the stage's first weights (L2-SP)", minimum=0
    )
    average_with_start: float = setting(
        0.0,
        "share of the stage's first weights in the saved model (WiSE-FT)",
        minimum=0,
        below=1,
    )
    objective: Objective = setting(
        "completion",
        "what is minimised: the loss of completions, or of pairs of a chosen and a rejected answer "
        "(DPO; Rafailov et al. 2023)",
    )
    dpo_beta: float = setting(
        0.1, "dpo: how much the start holds back, β (Rafailov et al. 2023)", above=0
    )
    seed: int = setting(0, "seed of masks and adapters", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._resolve()
        self._check_preferences()
        if self.fraction is not None and self.method not in FRACTION_METHODS:
            raise InputError(
                f"fraction: method {self.method!r} takes no fraction, found {self.fraction}"
            )
        if self.affinity is not None and self.method != "collab":
            raise InputError(
                f"affinity: needed by method 'collab' alone, found {self.affinity!r} "
                f"with method {self.method!r}"
            )
        if self.mutual and self.affinity not in ("knn", "shuffled", "diffusion"):
            raise InputError(
                f"mutual: expected the affinity knn, shuffled or diffusion, found {self.affinity}; "
                "leave it off"
            )
        if self.rescale and (self.method, self.applies_to) != ("random", "gradient"):
            raise InputError("rescale: divides a random mask's gradient; leave it off elsewhere")
        if self._needs_update and self.applies_to != "update":
            raise InputError(
                f"applies_to: {self._what} leaves entries as they are, which only 'update' does "
                f"(weight decay moves them otherwise), found {self.applies_to!r}"
            )
        if self.method == "mofo" and self.moments != "full":
            raise InputError(
                "moments: mofo ranks the momentum of the whole gradient, which 'full' keeps, found "
                f"{self.moments!r}; leave it off"
            )
        if self.neurons == "heads" and (self.mask_mode or self.method in ("sft", "lora")):
            raise InputError(
                f"neurons: heads have weights to mask, and no networks, found {self._what}; use a "
                "method that masks full weights, or leave it off"
            )
        self._check_polarity()
        self._check_networks()
        self._check_compact()
        if self.quantise and self.method != "lora":
            raise InputError(
                f"quantise: packed weights cannot be trained, found method {self.method!r}; use "
                "method 'lora'"
            )
        if self.lora_targets != "all-linear" and (self.method != "lora" or self.trains_networks):
            raise InputError(
                "lora_targets: is about adapters that all train; use method lora without "
                "train-only or freeze"
            )
        for name in ("l2_to_start", "average_with_start"):
            if getattr(self, name) and self.method == "lora":
                raise InputError(
                    f"{name}: is about whole weights, found method 'lora'; leave it off"
                )
        if self.structure == "first" and self.method in DRAWN_METHODS:
            raise InputError(
                f"structure: {self.method} draws its masks from the stage's own data; use 'stage'"
            )
        if self.quantise and self.dtype != "float32":
            raise InputError("dtype: a packed base keeps float32 elsewhere; leave it off")
        if self.unfreeze and self.max_steps:
            raise InputError("unfreeze: counts whole epochs; leave max_steps off")
        self.pass_samples(1)

    def pass_samples(self, processes: int) -> int:
        """Return the samples of a forward pass when processes share a batch.

        It is ``micro_batch_size``, or all of a process's share where that is smaller.

        Raises
        ------
        InputError
            When a batch does not consist of whole passes of each process.
        """
        share, rest = divmod(self.batch_size, processes)
        samples = min(self.micro_batch_size, share)
        if rest or share % samples:
            remedy = "lower micro_batch_size" if samples > 1 else "use fewer processes"
            raise InputError(
                f"batch_size: expected a multiple of {processes * max(1, samples)} "
                f"(micro_batch_size {self.micro_batch_size}, {processes} "
                f"process{'es' if processes > 1 else ''}), found {self.batch_size}; {remedy}"
            )
        return samples

    @property
    def answers_a_sample(self) -> int:
        """How many answers of a sample a step looks at: of a pair both."""
        return 2 if self.objective == "dpo" else 1

    @property
    def forward_mode(self) -> str | None:
        """What is done to networks in the forward pass, if anything."""
        return self.mask_mode if self.mask_mode in FORWARD_MODES else None

    @property
    def wanted_structure(self) -> Literal["graph", "clusters"] | None:
        """The file that the method reads, if any."""
        if self.method not in GRAPH_METHODS:
            return None
        by_cluster = self.method == "collab-static" or self.affinity in CLUSTER_AFFINITIES
        return "clusters" if by_cluster else "graph"

    @property
    def trains_networks(self) -> bool:
        """Whether a mask on the update follows networks."""
        return self.mask_mode is not None and self.forward_mode is None

    @property
    def neuron_wise(self) -> bool:
        """Whether a mask on the update holds whole neurons, with their biases."""
        return self.trains_networks or self.method in NEURON_METHODS

    @property
    def slice_wise(self) -> bool:
        """Whether a mask on the update holds whole neurons or columns, whatever the gradient."""
        return self.neuron_wise or self.method in RANKED_METHODS

    @property
    def masked(self) -> bool:
        """Whether gradients or updates are masked."""
        return self.method in FRACTION_METHODS or self.trains_networks

    @property
    def _needs_update(self) -> bool:
        return self.method in UPDATE_METHODS or self.trains_networks

    @property
    def _what(self) -> str:
        mode = f" with mask_mode {self.mask_mode!r}" if self.mask_mode else ""
        return f"method {self.method!r}{mode}"

    def _resolve(self) -> None:
        """Put in what depends on other settings, and today's words for older ones."""
        mode = self.mask_mode and OLDER_WORDS.get(self.mask_mode, self.mask_mode)
        if mode is None and self.polarity and self.method in ("sft", "lora"):
            mode = next(word for word, of in POLARITIES.items() if of == self.polarity)
        object.__setattr__(self, "mask_mode", mode)
        if self.polarity is None:
            own = {"ssu": "protect"} | dict.fromkeys(NEURON_METHODS, "train")
            object.__setattr__(self, "polarity", own.get(self.method) or POLARITIES.get(mode or ""))
        if self.fraction is None and self.method in FRACTION_METHODS:
            object.__setattr__(self, "fraction", 0.5)
        if self.affinity is None and self.method == "collab":
            object.__setattr__(self, "affinity", "knn")
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", 2e-4 if self.method == "lora" else 1e-5)
        if self.applies_to is None:
            holds_back = "update" if self._needs_update else "gradient"
            object.__setattr__(self, "applies_to", holds_back)
        if self.unmasked is None:
            rest = "freeze" if self.polarity == "train" else "train"
            object.__setattr__(self, "unmasked", rest)

    def _check_polarity(self) -> None:
        of_mode = POLARITIES.get(self.mask_mode or "")
        if self.column_score != "wanda" and self.method != "ssu":
            raise InputError(f"column_score: is about ssu, found {self._what}; leave it off")
        if self.polarity is None or self.method in RANKED_METHODS:
            return
        if of_mode is None:
            raise InputError(
                "polarity: is about networks whose weights train or not, and methods that rank "
                f"neurons, found {self._what}; leave it off"
            )
        if of_mode != self.polarity:
            raise InputError(
                f"polarity: mask_mode {self.mask_mode!r} says {of_mode!r}, found "
                f"{self.polarity!r}; leave one of them off"
            )

    def _check_networks(self) -> None:
        if self.trains_networks and self.method not in ("sft", "lora"):
            raise InputError(
                f"mask_mode: {self.mask_mode!r} is a mask on the update, and method "
                f"{self.method!r} has its own; use method sft or lora"
            )
        if self.mask_mode is None:
            given = [name for name in _NETWORK_FIELDS if getattr(self, name) not in ("", (), False)]
            if given:
                raise InputError(f"{given[0]}: is about networks; give mask_mode too")
        elif not self.component_ids or len(set(self.component_ids)) < len(self.component_ids):
            raise InputError(
                f"component_ids: expected networks, each once, found {self.component_ids}"
            )
        if self.straight_through and self.forward_mode is None:
            raise InputError(
                "straight_through: is about masks on the forward pass; use mask_mode lesion or "
                "preserve"
            )
        if self.unfreeze and self.mask_mode != "train-only":
            raise InputError(
                "unfreeze: adds networks to those that train; use mask_mode train-only"
            )
        self.unfreezing()

    def _check_preferences(self) -> None:
        if self.objective != "dpo":
            return
        if self.forward_mode is not None:
            raise InputError(
                f"mask_mode: {self.mask_mode!r} makes another model than the one that dpo measures "
                "the distance to; use train-only or freeze, or objective completion"
            )
        if self.lora_dropout:
            raise InputError(
                "lora_dropout: dpo compares the model with its start, and switches dropout off, "
                f"found {self.lora_dropout:g}; leave it off"
            )

    def _check_compact(self) -> None:
        if not self.compact:
            return
        if not self.slice_wise or self.method == "lora":
            raise InputError(
                "compact: expected a mask of whole neurons or columns on full weights, the same in "
                f"all steps, found {self._what}; use method sft with mask_mode train-only or "
                f"freeze, {' or '.join(RANKED_METHODS)}, or leave compact off"
            )
        if self.neurons == "heads":
            raise InputError(
                "compact: expected slices of MLPs, found neurons 'heads'; leave one of them off"
            )
        if self.unfreeze:
            raise InputError(
                "compact: expected the same neurons in all steps, found unfreeze, by which more "
                "join; leave one of them off"
            )
        if self.max_grad_norm and not self.mask_before_clipping:
            raise InputError(
                "compact: clips what trains, and never has the full gradient; expected "
                "mask_before_clipping, or max_grad_norm 0, found neither"
            )

    def unfreezing(self) -> list[tuple[int, ...]]:
        """Return the networks that join in the second epoch, the third, and so on.

        Raises
        ------
        InputError
            For anything but lists of new networks, and for more lists than further epochs.
        """
        found: list[tuple[int, ...]] = []
        seen = set(self.component_ids)
        for text in self.unfreeze:
            ids = tuple(int(i) for i in text.split(",") if i.strip().isdecimal())
            if len(ids) != len(text.split(",")) or seen & set(ids) or len(set(ids)) < len(ids):
                raise InputError(
                    "unfreeze: expected networks that do not train yet, such as 1,2, found "
                    f"{text!r}"
                )
            seen |= set(ids)
            found.append(ids)
        if len(found) >= self.epochs:
            raise InputError(
                f"unfreeze: expected at most {self.epochs - 1} lists for {self.epochs} epochs, "
                f"found {len(found)}"
            )
        return found


_NETWORK_FIELDS = ("mask_layers", "random_networks", "straight_through", "unfreeze")


@dataclass(frozen=True)
class EvaluateSettings(Settings):
    """Generation, cloze and perplexity of one model."""

    stage: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 2

    batch_size: int = setting(64, "prompts a generation batch", above=0)
    max_new_tokens: int = setting(256, "longest answer that is generated", above=0)
    gsm8k_limit: int | None = setting(None, "first problems answered; all when absent", above=0)
    exact_limit: int | None = setting(
        None, "first questions of exact that are answered; all when absent", above=0
    )
    perplexity_limit: int | None = setting(
        None, "first samples whose perplexity is taken; all when absent", above=0
    )
    max_tokens: int = setting(1_024, "longer samples are left out and counted", above=1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "precision of the weights")
    forward_mask: Literal["on", "off"] = setting(
        "on", "score a model that was trained with a mask on its forward pass with it or without"
    )
