"""Settings of how the rows of anyone's data become samples."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fnsft.config.settings import Settings, setting

Template = Literal["auto", "chat", "alpaca", "chatml", "basic"]


@dataclass(frozen=True)
class DataSettings(Settings):
    """Rows of a file, a folder or the hub become rendered training and validation samples."""

    stage: ClassVar[str] = "data"

    columns: str = setting(
        "", "fields of a row, such as prompt=q,completion=a,context=c; recognised when absent"
    )
    template: Template = setting(
        "auto", "how a sample is written; auto: the tokenizer's chat template, else by schema"
    )
    system: str = setting("", "system message before every conversation")
    turns: Literal["all", "last"] = setting(
        "all", "conversations: every answer becomes a sample, or the last one"
    )
    data_config: str | None = setting(None, "configuration of a hub data set")
    data_revision: str = setting("main", "revision of a hub data set")
    data_split: str = setting("train", "split that is trained on")
    streaming: bool = setting(False, "hub: read rows as they come; give max_samples with it")
    max_samples: int | None = setting(
        None, "training rows that are drawn, by data_seed; all when absent", above=0
    )
    validation_split: str | None = setting(
        None, "split that validates; absent: validation, valid, val or dev, else a fraction"
    )
    validation_fraction: float = setting(
        0.05, "share of the training rows held out where no split validates", above=0, below=1
    )
    max_validation_samples: int = setting(500, "validation samples at most", above=0)
    deduplicate: bool = setting(
        True, "leave out training samples whose prompt is also a held-out one's"
    )
    data_seed: int = setting(0, "seed of what is drawn and held out", minimum=0)
