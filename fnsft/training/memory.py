"""How much memory a run will take, before any weight is loaded.

Symbols: P parameters, of which K train; L layers, d = d_model, N = d_mlp, q and v the widths of
all queries and of all values, a heads, V tokens of the vocabulary, B samples a forward pass (of
pairs, 2·B answers), T tokens of the longest, b bytes a value (4, in bfloat16 2).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from fnsft.architectures import graph_shape, head_matrices, mlp_layers
from fnsft.architectures.blocks import ExpertsBlock, MLPBlock, linear_widths
from fnsft.architectures.targets import lora_targets
from fnsft.artifacts.storage import size_in_words
from fnsft.config.stages import RANKED_METHODS, NetworksSettings, TrainSettings
from fnsft.errors import InputError

# Bytes of a weight that is packed: NF4 has a float32 scale for 64 weights, itself packed in 8
# bits (Dettmers et al. 2023, Section 3); int8 keeps a float32 scale a row, which is next to none.
PACKED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
HEAD_TILE_TOKENS, HEAD_TILE_COLUMNS = 4_096, 32_768  # TRL's: the loss never holds all logits


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides how much memory it takes; counts are of parameters.

    ``packable`` are the entries of the decoder's linear layers, ``mlp`` those of the neurons'
    matrices, ``largest_mlp`` those of the largest; a tensor of ``largest_tensor`` may hold many, as
    that of all experts. A graph has ``graph_layers`` of ``graph_width``
    neurons. An adapter of rank r has ``r · adapter_widths``
    entries; the layers that have one take ``adapter_inputs`` values a token.
    """

    parameters: int
    packable: int
    mlp: int
    largest_mlp: int
    largest_tensor: int
    head: int
    adapter_widths: int
    adapter_inputs: int
    layers: int
    graph_layers: int
    graph_width: int
    d_model: int
    d_mlp: int
    gated: bool
    heads: int
    d_queries: int
    d_values: int
    vocabulary: int
    attention: str


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device of one process, by part."""

    weights: int
    gradients: int
    moments: int
    activations: int
    affinities: int
    mask_scratch: int
    validation_logits: int
    first_weights: int = 0

    @property
    def total(self) -> int:
        """Bytes at the peak: of a training step, or of a validation, which has no gradients."""
        step = self.gradients + self.activations + self.mask_scratch
        held = self.weights + self.moments + self.first_weights + self.affinities
        return held + max(step, self.validation_logits)

    @property
    def parts_in_words(self) -> str:
        """All parts that are not zero, such as ``weights 1.0 GiB, …``."""
        parts = dataclasses.asdict(self).items()
        return ", ".join(f"{name.replace('_', ' ')} {size_in_words(n)}" for name, n in parts if n)


def shape_of(folder: Path, settings: TrainSettings) -> ModelShape:
    """Read a model's shape from its configuration; no weight is loaded.

    Raises
    ------
    InputError
        For an architecture whose MLP is not known.
    """
    return shape_of_config(AutoConfig.from_pretrained(folder, local_files_only=True), settings)


def shape_of_config(config: PretrainedConfig, settings: TrainSettings) -> ModelShape:
    """Return the shape of a model that need not be there; raises as :func:`shape_of`."""
    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = mlp_layers(model)
    dense = [layer for layer in layers if isinstance(layer, MLPBlock)]
    n_mlps, width = sum(layer.n_mlps for layer in layers), max(layer.d_mlp for layer in layers)
    if settings.neurons == "heads":
        n_mlps, width = graph_shape(model, "heads")
        matrices = head_matrices(model)
        entries = [matrix.view(matrix.parameter).numel() for matrix in matrices]
        largest = max((matrix.parameter.numel() for matrix in matrices), default=0)
    else:
        entries = [n for layer in layers for n in _mlp_entries(model, layer)]
        largest = max(_largest_tensor(model, layer) for layer in layers)
    targets = [linear_widths(path, model.get_submodule(path)) for path in _targets(model, settings)]
    heads = text.num_attention_heads
    d_head = getattr(text, "head_dim", None) or text.hidden_size // heads
    output = model.get_output_embeddings()
    return ModelShape(
        parameters=sum(p.numel() for p in model.parameters()),
        packable=sum(_entries(model, path) for path in lora_targets(model, "all-linear")),
        mlp=sum(entries),
        largest_mlp=max(entries, default=0),
        largest_tensor=largest,
        head=output.weight.numel() if output is not None else 0,
        adapter_widths=sum(i + o for i, o in targets),
        adapter_inputs=sum(i for i, _ in targets),
        layers=len(layers),
        graph_layers=n_mlps,
        graph_width=width,
        d_model=text.hidden_size,
        d_mlp=max(_active_width(layer, text) for layer in layers),
        gated=all(layer.gate is not None for layer in dense),
        heads=heads,
        d_queries=heads * d_head,
        d_values=(getattr(text, "num_key_value_heads", None) or heads) * d_head,
        vocabulary=text.vocab_size,
        attention=model.config._attn_implementation,
    )


def estimate(
    shape: ModelShape,
    settings: TrainSettings,
    longest_tokens: int,
    eager: bool = False,
    processes: int = 1,
    neurons: float | None = None,
) -> MemoryEstimate:
    """Estimate the peak memory of a run on one of its devices.

    ``eager`` attention holds its scores; ``processes`` share the model (FSDP2), or each has a copy
    and sends gradients in buckets (DDP). ``neurons`` is the share of them, or of columns, that a
    compact run trains; None: :func:`neuron_share`.

    Notes
    -----
    weights: b·P; packed, P' linear entries in ``PACKED_BYTES`` each and the rest in float32; with
    autocast 2·P' for the copies in bfloat16. Adapters are float32. gradients: b·K, and as much
    in buckets. moments: 2·b·K (Adam). first_weights: b·K with l2_to_start. affinities: W in every
    layer, 4·N² a dense one, a value and its column for each of k neighbours else. Activations are
    counted as in Korthikanti et al. 2022 (arXiv 2205.05198, Section 4.1), tensor by tensor, for
    layers as transformers writes them: no
    dropout, RMSNorm that keeps its input, the normalised values and its output. In values a token
    and layer::

        6·d + 2·q + 2·v + 4·N (a plain MLP: 2·N) [+ a·T for eager attention]

    A compact run has a second copy of what trains of the MLPs, down keeps that share of its N
    inputs, and a gate's activation is not kept; where all else is frozen, norms keep 3·d alone.
    With checkpointing L·d are kept and one layer is recomputed. To these comes the larger of
    what a layer's backward pass works on, and the loss's: a tile of at most 4,096 tokens and
    32,768 logits (TRL takes the loss in tiles) and the head's gradient in float32.
    mask_scratch: a score and a mask of the largest matrix, the neighbours' sum for collab, and
    for updates a mask of a tensor that holds several matrices. validation_logits: B·T·V logits
    and, in float32, their log-probabilities.

    Of runs of a Llama of eight layers the total was 0.97 to 1.14 times the peak of all tensors
    (``tests/test_memory_estimate.py``). What the process takes besides them, some 700 MiB of
    libraries on a CPU or a context on a GPU, is not in it.
    """
    width = 2 if settings.dtype == "bfloat16" else 4
    share = neuron_share(settings) if neurons is None else neurons
    train, train_bytes = _trained(shape, settings, width, share)
    tokens = settings.pass_samples(processes) * longest_tokens
    trained_tokens = tokens * settings.answers_a_sample
    shards = processes if settings.parallel == "fsdp" else 1
    copies = 2 if processes > shards else 1
    if settings.quantise:
        rest = shape.parameters - shape.packable
        weights = int(shape.packable * PACKED_BYTES[settings.quantise]) + 4 * rest
    else:
        weights = width * shape.parameters
    if settings.method == "lora":
        weights += train_bytes * train
    if settings.compact:
        weights += int(width * share * shape.mlp)
    if settings.bf16_autocast and not settings.quantise:
        weights += 2 * shape.packable
    logits = tokens * shape.vocabulary * (width + 8)
    return MemoryEstimate(
        weights=weights // shards,
        gradients=train_bytes * train * copies // shards,
        moments=2 * train_bytes * train // shards,
        activations=_activations(shape, settings, trained_tokens, longest_tokens, eager, share),
        affinities=_affinities(shape, settings),
        mask_scratch=_mask_scratch(shape, settings) // shards,
        validation_logits=logits,
        first_weights=(train_bytes * train if settings.l2_to_start else 0) // shards,
    )


def neuron_share(settings: TrainSettings) -> float:
    """Return the share of neurons or columns that train; networks of the default size, apart."""
    if settings.method in RANKED_METHODS:
        assert settings.fraction is not None
        return settings.fraction
    chosen = len(settings.component_ids) * (1 - NetworksSettings().percentile / 100)
    chosen = min(1.0, chosen)
    return chosen if settings.polarity == "train" else 1 - chosen


def _trained(
    shape: ModelShape, settings: TrainSettings, width: int, share: float
) -> tuple[int, int]:
    """Return how many parameters train, and the bytes of each."""
    if settings.method == "lora":
        return settings.lora_rank * shape.adapter_widths, 4
    frozen = settings.masked and settings.unmasked == "freeze"
    if settings.compact:
        return int(share * shape.mlp) + (0 if frozen else shape.parameters - shape.mlp), width
    if frozen or settings.method == "projections-only":
        return shape.mlp, width
    return shape.parameters, width


def _trains_head(settings: TrainSettings) -> bool:
    frozen = settings.masked and settings.unmasked == "freeze"
    return settings.method not in ("lora", "projections-only") and not frozen


def _activations(
    shape: ModelShape,
    settings: TrainSettings,
    tokens: int,
    longest: int,
    eager: bool,
    share: float,
) -> int:
    """Return the bytes of what forward passes keep for the backward one, and its work."""
    half = settings.dtype == "bfloat16" or settings.bf16_autocast
    norm_bytes, other_bytes = 4, (2 if half else 4)
    mlp = (4 if shape.gated else 2) * shape.d_mlp
    kept_mlp = mlp
    if settings.compact:
        kept_mlp -= int((1 - share + shape.gated) * shape.d_mlp)
    norms = (3 if settings.compact and not _trains_head(settings) else 6) * shape.d_model
    attention = 2 * shape.d_queries + 2 * shape.d_values
    layer = norm_bytes * norms + other_bytes * (attention + kept_mlp)
    if eager:  # probabilities are float32; the product with values keeps a copy in its own type
        layer += (4 + half * other_bytes) * shape.heads * longest
    kept = shape.layers * layer
    if half and settings.method == "lora":
        kept += 4 * shape.adapter_inputs
    work = other_bytes * 2 * mlp + norm_bytes * 4 * shape.d_model
    if settings.gradient_checkpointing:
        work += kept // shape.layers
        kept = shape.layers * other_bytes * shape.d_model
    columns = other_bytes * HEAD_TILE_COLUMNS + 8 * min(shape.vocabulary, HEAD_TILE_COLUMNS)
    head = min(tokens, HEAD_TILE_TOKENS) * columns
    head += 4 * shape.head if _trains_head(settings) else 0
    return tokens * kept + max(tokens * work, head)


def _affinities(shape: ModelShape, settings: TrainSettings) -> int:
    if settings.affinity == "dense":
        return 4 * shape.graph_layers * shape.graph_width**2
    if settings.affinity in ("knn", "shuffled", "diffusion"):
        return (4 + 8) * shape.graph_layers * shape.graph_width * settings.k
    return 0


def _mask_scratch(shape: ModelShape, settings: TrainSettings) -> int:
    if not settings.masked or settings.method == "lora" or settings.compact:
        return 0
    score = 4 + 1 + (4 if settings.method == "collab" else 0)
    joined = settings.applies_to == "update" and shape.largest_tensor > shape.largest_mlp
    return shape.largest_mlp * score + (shape.largest_tensor if joined else 0)


def _targets(model: nn.Module, settings: TrainSettings) -> list[str]:
    if settings.method != "lora":
        return []
    only_mlp = settings.trains_networks and settings.unmasked == "freeze"
    return lora_targets(model, "mlp" if only_mlp else settings.lora_targets)


def _entries(model: nn.Module, path: str) -> int:
    module = model.get_submodule(path)
    assert isinstance(module, (nn.Linear, Conv1D))
    return module.weight.numel()


def _mlp_entries(model: nn.Module, layer: MLPBlock | ExpertsBlock) -> list[int]:
    """Return the entries of each matrix; of a fused one they are those of both halves."""
    if isinstance(layer, ExpertsBlock):
        matrix = layer.d_expert * layer.d_model
        shared = [] if layer.shared is None else _mlp_entries(model, layer.shared)
        return [matrix] * 3 * layer.n_experts + shared
    paths = {layer.gate, layer.up, layer.down}
    return [_entries(model, path) for path in paths if path is not None]


def _largest_tensor(model: nn.Module, layer: MLPBlock | ExpertsBlock) -> int:
    if isinstance(layer, ExpertsBlock):
        return 2 * layer.n_experts * layer.d_expert * layer.d_model  # gate_up_proj
    return max(_mlp_entries(model, layer))


def _active_width(layer: MLPBlock | ExpertsBlock, config: object) -> int:
    """Return how many neurons a token passes."""
    if isinstance(layer, MLPBlock):
        return layer.d_mlp
    chosen = getattr(config, "num_experts_per_tok", 1) * layer.d_expert
    return chosen + (layer.shared.d_mlp if layer.shared else 0)


def shape_or_none(folder: Path, settings: TrainSettings) -> ModelShape | None:
    """Return the shape, or None for an architecture that is not known."""
    try:
        return shape_of(folder, settings)
    except InputError:
        return None
