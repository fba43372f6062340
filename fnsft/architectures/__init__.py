"""Where the neurons of a language model live: the only place that knows.

Shapes: N = ``d_mlp`` neurons of a layer, D = ``d_model``. A layer computes
``down(act(gate(x)) * up(x))`` (gated) or ``down(act(up(x)))`` (plain). Neuron i is row i of
gate and up and column i of down in :class:`torch.nn.Linear`, whose weight is [out, in]; in
GPT-2's ``Conv1D``, whose weight is [in, out], it is the other axis. Every expert of a mixture is
an MLP of its own, and channels of attention heads may take the neurons' place (:mod:`.heads`).
"""

from fnsft.architectures.activity import graph_shape, neuron_activity
from fnsft.architectures.blocks import ExpertsBlock, MLPBlock, mlp_blocks, mlp_layers
from fnsft.architectures.heads import head_blocks
from fnsft.architectures.matrices import (
    MLPMatrix,
    adapter_matrices,
    head_matrices,
    mlp_matrices,
    neuron_biases,
    neuron_matrices,
)
from fnsft.architectures.sites import site_widths, watch_site

__all__ = [
    "ExpertsBlock",
    "MLPBlock",
    "MLPMatrix",
    "adapter_matrices",
    "graph_shape",
    "head_blocks",
    "head_matrices",
    "mlp_blocks",
    "mlp_layers",
    "mlp_matrices",
    "neuron_activity",
    "neuron_biases",
    "neuron_matrices",
    "site_widths",
    "watch_site",
]
