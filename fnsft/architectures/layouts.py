"""Where a family's MLP and attention heads have their weights; a new family is a new line here."""

from typing import NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D


class Layout(NamedTuple):
    """Module paths in a decoder block; gate = up is one matrix whose first N rows are the gate."""

    gate: str | None
    up: str
    down: str

    @property
    def paths(self) -> list[str]:
        """The projections' paths."""
        return [path for path in self if path is not None]

    @property
    def activations(self) -> list[str]:
        """Where the activation may be: beside the up projection."""
        return [".".join([*self.up.split(".")[:-1], name]) for name in ACTIVATION_NAMES]


ACTIVATION_NAMES = ("act_fn", "activation_fn", "act", "gelu_impl")


# The first whose modules are all there is the block's.
LAYOUTS = (
    # Llama, Mistral, Qwen 2 and 3, Gemma 2 and 3, OLMo 2, SmolLM 3, Cohere 2, Granite, StableLM
    Layout("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    # Phi-3, GLM-4
    Layout("mlp.gate_up_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    # Nemotron
    Layout(None, "mlp.up_proj", "mlp.down_proj"),
    # GPT-2, Starcoder 2
    Layout(None, "mlp.c_fc", "mlp.c_proj"),
    # Phi
    Layout(None, "mlp.fc1", "mlp.fc2"),
    # OPT
    Layout(None, "fc1", "fc2"),
    # GPT-NeoX, Falcon, Bloom
    Layout(None, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    # GPT-J
    Layout(None, "mlp.fc_in", "mlp.fc_out"),
    # MPT
    Layout(None, "ffn.up_proj", "ffn.down_proj"),
)

# Mixtral, Qwen 3 MoE, DeepSeek V3: the module that holds all routed experts, and the MLP that
# DeepSeek has besides. Experts of another shape need a function in fnsft.architectures.experts.
EXPERTS = "mlp.experts"
SHARED_EXPERTS = Layout(
    "mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj"
)


class HeadsLayout(NamedTuple):
    """Module paths in a decoder block: what the heads' values and their outputs pass.

    ``value`` may hold queries and keys before the values, of all heads each; it is None where
    they lie head by head, as in GPT-NeoX. ``kind`` tells GPT-2 from GPT-BigCode, which has them
    head by head in a projection of the same name.
    """

    value: str | None
    output: str
    kind: type[nn.Module] = nn.Linear

    @property
    def paths(self) -> list[str]:
        """The projections' paths."""
        return [path for path in (self.value, self.output) if path is not None]


# The first whose modules are all there is the block's.
HEADS_LAYOUTS = (
    # Llama, Mistral, Mixtral, Qwen 2 and 3, Gemma 2 and 3, OLMo 2, SmolLM 3, GLM-4, Nemotron
    HeadsLayout("self_attn.v_proj", "self_attn.o_proj"),
    # Phi-3
    HeadsLayout("self_attn.qkv_proj", "self_attn.o_proj"),
    # Phi
    HeadsLayout("self_attn.v_proj", "self_attn.dense"),
    # OPT
    HeadsLayout("self_attn.v_proj", "self_attn.out_proj"),
    # GPT-2
    HeadsLayout("attn.c_attn", "attn.c_proj", Conv1D),
    # GPT-J
    HeadsLayout("attn.v_proj", "attn.out_proj"),
    # MPT
    HeadsLayout("attn.Wqkv", "attn.out_proj"),
    # GPT-NeoX
    HeadsLayout(None, "attention.dense"),
    # Falcon, Bloom
    HeadsLayout(None, "self_attention.dense"),
)
