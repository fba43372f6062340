"""What a run reads and where it writes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFiles:
    """The files and folders of a run; ``checkpoints`` is its own, and goes at success."""

    model: Path
    data: Path
    checkpoints: Path
    output: Path
    networks: Path | None = None
    resume_from: Path | None = None

    @property
    def train(self) -> Path:
        """The training split."""
        return self.data / "train.jsonl"

    @property
    def validation(self) -> Path:
        """The validation split."""
        return self.data / "validation.jsonl"
