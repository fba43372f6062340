"""Answers by transformers, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fnsft.evaluation.generation import Generation, generate


@dataclass(eq=False)
class HfGenerator:
    """``transformers``' own generation, ``batch_size`` prompts at a time."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int
    name: str = "hf"

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
    ) -> list[Generation]:
        """Continue prompts, as :class:`fnsft.evaluation.generators.Generator` says."""
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            batch_size=self.batch_size,
            max_new_tokens=max_new_tokens,
            stops=stops,
        )


def generator(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> HfGenerator:
    """Return the generator of a loaded model."""
    return HfGenerator(model, tokenizer, batch_size)
