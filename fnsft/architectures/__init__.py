"""Where the MLP neurons of a language model live: the only place that knows.

Shapes: N = ``d_mlp`` neurons of a layer, D = ``d_model``. A layer computes
``down(act(gate(x)) * up(x))`` (gated) or ``down(act(up(x)))`` (plain). Neuron i is row i of
gate and up and column i of down in :class:`torch.nn.Linear`, whose weight is [out, in]; in
GPT-2's ``Conv1D``, whose weight is [in, out], it is the other axis.
"""

from fnsft.architectures.activity import neuron_activity
from fnsft.architectures.blocks import ExpertsBlock, MLPBlock, mlp_blocks, mlp_layers
from fnsft.architectures.matrices import MLPMatrix, adapter_matrices, mlp_matrices
from fnsft.architectures.sites import site_widths, watch_site

__all__ = [
    "ExpertsBlock",
    "MLPBlock",
    "MLPMatrix",
    "adapter_matrices",
    "mlp_blocks",
    "mlp_layers",
    "mlp_matrices",
    "neuron_activity",
    "site_widths",
    "watch_site",
]
