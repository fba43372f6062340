"""Descriptions of neurons by their own top tokens, found in half of the samples, scored in half.

Even samples give every neuron the tokens of its largest activations of each sign and the text
around them (of occurrences that look alike within ``WINDOW`` tokens the first alone); odd samples
say how well these tokens tell its activity (:mod:`fnsft.neurons.top_tokens`).
"""

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fnsft.architectures import site_widths
from fnsft.artifacts.descriptions import SIGNS, Description
from fnsft.config.stages import DescribeSettings
from fnsft.errors import InputError
from fnsft.neurons.capture import watch_samples
from fnsft.neurons.top_tokens import NO_TOKEN, TokenScores, TopActivations, first_windows

WINDOW = 5  # tokens on both sides of the described one
DIGITS = 6  # of a score: the rest is rounding

Samples = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class FoundTokens:
    """What a pass over the even samples and one over the odd ones gave, layer by layer.

    ``places`` are tokens of the even samples, [2, K, N], and ``scores`` [2, N], as
    :mod:`fnsft.neurons.top_tokens` has them.
    """

    samples: Samples
    places: list[np.ndarray]
    scores: list[np.ndarray]

    @property
    def without_activation(self) -> list[int]:
        """Neurons that have no activation of the sign, for both signs."""
        return [sum(int((p[sign, 0] == NO_TOKEN).sum()) for p in self.places) for sign in (0, 1)]

    @property
    def without_variance(self) -> int:
        """Descriptions whose score is 0 since it, or the neuron, never or always held."""
        return sum(
            int((np.isnan(scores) & (places[:, 0] != NO_TOKEN)).sum())
            for scores, places in zip(self.scores, self.places, strict=True)
        )


def find_tokens(
    model: PreTrainedModel, samples: Samples, settings: DescribeSettings
) -> FoundTokens:
    """Find every neuron's top tokens in the even samples, and score them on the odd ones.

    The memory is that of the token ids, of a forward pass, and of one layer's activations, as
    :class:`~.top_tokens.TopActivations` and :class:`~.top_tokens.TokenScores` say; it does not
    grow with the number of activations.

    Raises
    ------
    InputError
        For fewer than two samples, and when an activation is NaN.
    """
    even, odd = samples[::2], samples[1::2]
    if not odd:
        raise InputError(f"samples: expected two or more, found {len(samples)}; give more data")
    n_layers = len(site_widths(model)["intermediate"])
    top = TopActivations(n_layers, settings.n_tokens, first_windows(even, WINDOW))
    watch_samples(model, even, settings.batch_size, top.see, "intermediate", "describe")
    places = [top.places(layer) for layer in range(n_layers)]
    ids = np.concatenate(even)
    top_ids = [np.where(found == NO_TOKEN, NO_TOKEN, ids[found]) for found in places]
    scores = TokenScores(np.concatenate(odd), top_ids)
    watch_samples(model, odd, settings.batch_size, scores.see, "intermediate", "score")
    return FoundTokens(even, places, [scores.scores(layer) for layer in range(n_layers)])


def descriptions_of(
    found: FoundTokens, tokenizer: PreTrainedTokenizerBase, n_contexts: int
) -> Iterator[Description]:
    """Put what was found into words: distinct tokens in quotation marks, the strongest first."""
    texts = TokenTexts(tokenizer, found.samples)
    for layer, (places, scores) in enumerate(zip(found.places, found.scores, strict=True)):
        for neuron in range(places.shape[2]):
            for sign, name in enumerate(SIGNS):
                own = [int(place) for place in places[sign, :, neuron] if place != NO_TOKEN]
                if not own:
                    continue
                words = dict.fromkeys(json.dumps(texts.token(p), ensure_ascii=False) for p in own)
                score = float(np.nan_to_num(scores[sign, neuron]))
                contexts = tuple(texts.context(place) for place in own[:n_contexts])
                yield Description(
                    layer, neuron, name, ", ".join(words), round(score, DIGITS), contexts
                )


class TokenTexts:
    """Tokens of samples, and what stands around them, as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, samples: Samples) -> None:
        self.samples = samples
        self.starts = np.cumsum([0, *map(len, samples)])
        self._decode = functools.partial(
            tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        self._token = functools.cache(self._decoded)

    def token(self, place: int) -> str:
        """Return the token at a place among those of all samples."""
        sample, index = self._find(place)
        return self._token(self.samples[sample][index])

    @functools.cache  # noqa: B019  # neurons share their contexts, and both live as long
    def context(self, place: int) -> str:
        """Return the token between « and », and ``WINDOW`` tokens on both sides.

        Of a token that is some of a character's bytes alone the whole character is marked.
        """
        sample, index = self._find(place)
        begin = max(0, index - WINDOW)
        ids = list(self.samples[sample][begin : index + WINDOW + 1])
        first, last = index - begin, index - begin + 1
        whole = self._decode(ids)
        # Tokens that end within a character decode to U+FFFD, with which the whole does not begin.
        while not whole.startswith(before := self._decode(ids[:first])):
            first -= 1
        while not whole.startswith(until := self._decode(ids[:last])):
            last += 1
        return f"{before}«{until[len(before) :]}»{whole[len(until) :]}"

    def _find(self, place: int) -> tuple[int, int]:
        sample = int(np.searchsorted(self.starts, place, side="right")) - 1
        return sample, place - int(self.starts[sample])

    def _decoded(self, token: int) -> str:
        """Decode a token behind another one, where SentencePiece shows the space before it."""
        other = self.samples[0][0]
        return self._decode([other, token])[len(self._decode([other])) :]
