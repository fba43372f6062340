"""What the loss of a tokenised split is taken of, checked before the first step."""

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from fnsft.data.tokens import IGNORED, EncodedSplit
from fnsft.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Audit:
    """Counts of one split; ``supervised`` are tokens that the loss is taken of.

    ``n_stop_only`` samples have no such token but the one that stops generation.
    """

    n_samples: int
    supervised_min: int
    supervised_median: float
    supervised_max: int
    supervised_share: float
    n_stop_only: int
    n_left_out: int
    longest_left_out_tokens: int
    max_tokens: int
    in_positions: bool
    n_texts_cut: int
    n_unfinished: int

    def lines(self) -> list[str]:
        """Put the counts into words, a line for each finding."""
        limit, remedy = f"max_tokens={self.max_tokens:,}", "; raise --max-tokens to keep them"
        if self.in_positions:
            limit, remedy = f"the model's {self.max_tokens:,} positions", ""
        lines = [
            f"samples: {self.n_samples:,}; loss on {self.supervised_min:,} / "
            f"{self.supervised_median:,g} / {self.supervised_max:,} tokens of each "
            f"(min / median / max), {self.supervised_share:.0%} of all, the stop token with them"
        ]
        if self.n_left_out:
            lines.append(
                f"left out as longer than {limit}: {self.n_left_out:,}, the longest has "
                f"{self.longest_left_out_tokens:,}{remedy}"
            )
        if self.n_texts_cut:
            lines.append(
                f"texts longer than {limit}: {self.n_texts_cut:,}, cut into "
                f"{self.n_texts_cut + self.n_unfinished:,} pieces"
            )
        if self.n_stop_only:
            lines.append(f"samples with the stop token alone in the loss: {self.n_stop_only:,}")
        return lines


def audit(split: EncodedSplit, tokenizer: "PreTrainedTokenizerBase") -> Audit:
    """Count what is learned of a split.

    Raises
    ------
    InputError
        When nothing would be learned: samples without a label, a sample that does not end
        with a stop token inside the loss, or none that has another token in it.
    """
    stops = split.stop_ids | {tokenizer.eos_token_id}
    supervised, n_tokens, n_without_stop, n_stop_only = [], 0, 0, 0
    for sample in split.samples:
        labels = [label for label in sample.labels if label != IGNORED]
        supervised.append(len(labels))
        n_tokens += len(sample.labels)
        n_without_stop += sample.labels[-1] not in stops
        n_stop_only += len(labels) == 1 and labels[0] in stops
    n_empty = supervised.count(0)
    if n_empty or not supervised:
        raise InputError(
            f"labels: expected tokens to learn in every sample, found none in {n_empty:,} of "
            f"{len(supervised):,}, so that nothing would be learned from these; check which "
            "fields are prompt and completion (--columns)"
        )
    if n_without_stop > split.n_unfinished:
        raise InputError(
            f"labels: expected a stop token at the end of every sample, found none in "
            f"{n_without_stop - split.n_unfinished:,} of {len(supervised):,}, so that the model "
            "would never learn to stop; check the tokenizer's eos_token"
        )
    if n_stop_only == len(supervised):
        raise InputError(
            f"labels: expected an answer in the loss, found the stop token alone in all "
            f"{len(supervised):,} samples, so that nothing would be learned; check which field "
            "is the completion (--columns)"
        )
    return Audit(
        n_samples=len(supervised),
        supervised_min=min(supervised),
        supervised_median=median(supervised),
        supervised_max=max(supervised),
        supervised_share=sum(supervised) / n_tokens,
        n_stop_only=n_stop_only,
        n_left_out=split.n_left_out,
        longest_left_out_tokens=split.longest_left_out,
        max_tokens=split.max_tokens,
        in_positions=split.in_positions,
        n_texts_cut=split.n_texts_cut,
        n_unfinished=split.n_unfinished,
    )
