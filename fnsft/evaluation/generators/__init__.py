"""What generates answers: one module a backend, each with ``generator``."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from fnsft.evaluation.generation import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Modules are imported when they are asked for: a backend may need packages that are not there.
MODULES: dict[str, str] = {"hf": "hf"}


class Generator(Protocol):
    """Greedy answers of one loaded model; ``name`` stands in protocols."""

    name: str

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
    ) -> list[Generation]:
        """Continue tokenised prompts, in their order, until the end of sequence.

        An answer also ends before the first of the texts ``stops``, and is unfinished after
        ``max_new_tokens``. It does not depend on what it is batched with.
        """


def generator_of(
    backend: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_size: int
) -> Generator:
    """Return a backend's generator for a loaded model."""
    module = importlib.import_module(f"{__name__}.{MODULES[backend]}")
    return cast("Generator", module.generator(model, tokenizer, batch_size))
