"""Settings of functional networks: their discovery, their lesions, what they are compared with."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fnsft.config.settings import Settings, setting
from fnsft.errors import InputError

# Where in an MLP: act(gate x) (act(up x) where there is no gate), up x, the product of the two
# (what down reads), and what down returns.
Site = Literal["activation", "up", "intermediate", "output"]


@dataclass(frozen=True)
class NetworksSettings(Settings):
    """Functional networks: independent components of MLP activations, and their neurons."""

    stage: ClassVar[str] = "networks"

    samples: int = setting(100, "samples a data set, drawn with the seed", above=0)
    max_tokens: int = setting(512, "tokens of a sample; the rest is cut off", above=1)
    site: Site = setting("intermediate", "whose activations: intermediate is what down reads")
    scope: Literal["layer", "window", "stack"] = setting(
        "stack", "layers that are analysed together: one, a window of them, or all"
    )
    window: int = setting(4, "window: layers of each", above=0)
    layers: str = setting("", "layers analysed, such as 0:4,7 (0 to 3 and 7); all when absent")
    n_components: int = setting(10, "networks of each analysis", above=0)
    threshold: Literal["percentile", "z"] = setting(
        "percentile", "which neurons are in a network: a share of them, or all beyond |z|"
    )
    percentile: float = setting(98.0, "percentile of |loading|", minimum=0, below=100)
    z: float = setting(1.96, "|z| of a loading among the component's", above=0)
    independent: Literal["tokens", "neurons"] = setting(
        "tokens", "over what the components are independent"
    )
    standardise: bool = setting(True, "give every neuron unit variance (ours)")
    restarts: int = setting(
        5, "runs of FastICA from other starts, on resampled tokens, for the stability", above=0
    )
    max_iterations: int = setting(400, "iterations of FastICA", above=0)
    tolerance: float = setting(1e-4, "change of FastICA's weights that ends it", above=0)
    shuffle_tokens: bool = setting(
        False, "permute every neuron's values over the tokens: the null of no networks (ours)"
    )
    batch_size: int = setting(8, "samples a forward pass", above=0)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "precision of the forward pass")
    seed: int = setting(0, "seed of the samples, the sketch, the restarts", minimum=0)


@dataclass(frozen=True)
class LesionSettings(Settings):
    """What is lost when networks are removed, and what is left when only they are kept."""

    stage: ClassVar[str] = "lesion"

    layers: str = setting("", "layers lesioned, such as 0:4,7 (0 to 3 and 7); all when absent")
    max_networks: int = setting(0, "networks of the curves, in order of effect; 0: all", minimum=0)
    random_draws: int = setting(5, "random sets of the same size beside every network", above=0)
    unmask_shares: tuple[float, ...] = setting(
        (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
        "shares of each layer's neurons kept, by loading, in gradual unmasking",
        above=0,
        maximum=1,
    )
    gain: float = setting(2.0, "factor of amplified networks", above=1)
    samples: int = setting(64, "samples of each split whose perplexity is taken", above=0)
    cloze_limit: int | None = setting(100, "first cloze items, or all", above=0)
    gsm8k_limit: int | None = setting(50, "first problems answered, or all; 0: none", minimum=0)
    max_new_tokens: int = setting(256, "longest answer that is generated", above=0)
    batch_size: int = setting(32, "samples a forward pass", above=0)
    max_tokens: int = setting(1_024, "longer samples are left out and counted", above=1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", "precision of the weights")
    seed: int = setting(0, "seed of the random sets; that of the run is added", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.unmask_shares) != sorted(set(self.unmask_shares)):
            raise InputError(
                f"unmask_shares: expected shares in ascending order, found {self.unmask_shares}"
            )


@dataclass(frozen=True)
class MatchSettings(Settings):
    """Which networks of two sets are the same, by their neurons and by their loadings."""

    stage: ClassVar[str] = "match"

    permutations: int = setting(20, "permutations of the neurons that show chance", above=0)
    seed: int = setting(0, "seed of the permutations", minimum=0)


@dataclass(frozen=True)
class AgreeSettings(Settings):
    """Whether ICA networks and collaboration clusters are the same neurons (ours)."""

    stage: ClassVar[str] = "agree"

    permutations: int = setting(20, "permutations of the neurons that show chance", above=0)
    seed: int = setting(0, "seed of the permutations", minimum=0)
