"""What every kind of figure shows, in the sentence or two that stand below it in a paper."""

from fnsft.config.stages import FigureKind

CAPTIONS: dict[FigureKind, str] = {
    "perplexity": (
        "Validation perplexity over the epochs of fine-tuning, a curve a method and fraction p. "
        "A filled mark is the epoch whose weights were kept; the lower, the better."
    ),
    "sweep": (
        "Best validation perplexity against single hyperparameters of the graph, all else kept. "
        "The shuffled graph stands beside as the control: a value that helps both says nothing "
        "about the graph."
    ),
    "updates": (
        "How often each neuron's weights could change: a heat map a method, a row a layer, "
        "neurons sorted by their share. Random masks, the control, favour no neuron."
    ),
    "telemetry": (
        "What masks do by layer and step: how much of the mask of the step before they keep, how "
        "much they share with the largest gradients, and how much of their scores comes from "
        "neighbours. The shuffled graph stands beside as the control."
    ),
    "agreement": (
        "Agreement of clusters by layer: between two halves of the data, two data sets, and "
        "activations and parameters. The random-initialised twin and the token-shuffled null "
        "stand beside; only what exceeds both is learned structure."
    ),
    "structure": (
        "Structure of the collaboration graph by layer: Score over Null on unseen tokens, "
        "modularity, stable neighbours, hubs. The random-initialised twin and the token-shuffled "
        "null stand beside; only what exceeds both is learned structure."
    ),
    "overlap": (
        "What the graph changes about a mask, by layer: how much of the squared gradient the mask "
        "keeps, and how many entries it shares with other masks. The shuffled graph is the "
        "control: where it shares as much, the graph's neurons do not matter."
    ),
    "scores": (
        "Distribution of Score over Null, token by token, on unseen text; right of 1 a token's "
        "neurons are more concentrated in clusters than random ones. The random-initialised twin, "
        "the token-shuffled null and clusters of the parameters stand beside."
    ),
    "activations": (
        "Distributions of sampled neurons' activations by layer; what lies above 0 counts as "
        "activated. Beside each neuron stands the share of tokens that activate it."
    ),
    "influence": (
        "Share of the token weight that tokens carry up to a rank of frequency, for several "
        "exponents β. The larger β, the rarer the tokens that shape the graph; β = 0, the "
        "control, weighs every occurrence alike."
    ),
    "clusters": (
        "t-SNE of the neurons' spectral embedding, coloured by cluster, for some layers. A "
        "picture and no measure: distances between far groups mean nothing."
    ),
    "connectivity": (
        "Correlation between the time courses of functional networks: which are active together."
    ),
    "coverage": (
        "Where functional networks lie: the share of every layer's channels that are in each."
    ),
    "lesions": (
        "What is lost as functional networks are removed, and what is left as they alone are kept "
        "or neurons are unmasked step by step. Random sets of the same sizes stand beside; a "
        "network matters only where it differs from them."
    ),
    "networks-clusters": (
        "Agreement of functional networks and collaboration clusters by layer: are they the same "
        "neurons? The random-initialised twin, the token-shuffled null and permuted clusters "
        "stand beside."
    ),
    "bars": (
        "Share of each benchmark's items that are solved after fine-tuning, a bar a method and "
        "fraction p; the dashed line is the base model."
    ),
    "trade-off": (
        "What methods learn of the last task against what they keep of the earlier ones; up and to "
        "the right is better. Plain fine-tuning at smaller learning rates stands beside: a method "
        "has to lie above that curve to keep more than a smaller step does."
    ),
    "rates": (
        "What methods learn against what they keep, a curve a method over the learning rate of "
        "the last stage, the higher the rate, the larger the mark; up and to the right is better. "
        "Methods are compared where they learn as much; the shuffled graph is the control."
    ),
}


def caption_of(kind: FigureKind) -> str:
    """Return what a kind of figure shows, what to read from it, and which control stands beside."""
    return CAPTIONS[kind]
