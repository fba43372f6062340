"""What a run reads and where it writes."""

from dataclasses import dataclass
from pathlib import Path

from fnsft.artifacts import prompt_formats
from fnsft.artifacts.identity import LARGE_BYTES
from fnsft.artifacts.storage import manifest_path, require_elsewhere, require_replaceable
from fnsft.errors import InputError
from fnsft.hub.models import hub_name_of

GRAPH_FOLDER = "made-graph"  # not a name that somebody gives to files of theirs


@dataclass(frozen=True)
class RunFiles:
    """The files and folders of a run; ``checkpoints`` is its own, and goes at success."""

    model: Path
    data: Path
    checkpoints: Path
    output: Path
    networks: Path | None = None
    replay: tuple[Path, ...] = ()
    calibration: Path | None = None
    resume_from: Path | None = None

    @property
    def train(self) -> Path:
        """The training split."""
        return self.data / "train.jsonl"

    @property
    def validation(self) -> Path:
        """The validation split."""
        return self.data / "validation.jsonl"

    @property
    def base_name(self) -> str:
        """What an adapter calls its base: the hub's name in the hub's cache, else the folder.

        What ``fnsft fetch`` has brought is named by its folder, for nodes without a network.
        """
        fetched = manifest_path(self.model.resolve()).is_file()
        return (None if fetched else hub_name_of(self.model)) or str(self.model.resolve())

    def require_apart(self, *inputs: Path | None) -> None:
        """Refuse an output that would take the place of inputs, checkpoints or anyone's files.

        Raises
        ------
        InputError
            For such an output, and one in the checkpoints, which go at the run's end.
        """
        read = (self.model, self.data, *filter(None, inputs))
        require_elsewhere(self.output, *(path for path in read if path.exists()))
        output, checkpoints = self.output.resolve(), self.checkpoints.resolve()
        if output.is_relative_to(checkpoints) or checkpoints.is_relative_to(output):
            raise InputError(
                f"--checkpoints: expected a folder neither in the output {self.output} nor around "
                f"it, found {self.checkpoints}; it is removed at the run's end, so name another"
            )
        if self.output.is_file():
            raise InputError(f"{self.output}: expected a folder or none, found a file")
        require_replaceable(self.output)

    @property
    def kept(self) -> dict[str, Path]:
        """What the run's own preparations leave in the model folder, by name there.

        A dense graph of a large model is none of it: it is larger than the model.
        """
        graph = self.checkpoints / GRAPH_FOLDER
        made = [*graph.glob("graph.safetensors*"), *graph.glob("clusters.safetensors*")]
        found = {file.name: file for file in made if file.stat().st_size <= LARGE_BYTES}
        found[prompt_formats.NAME] = self.data / prompt_formats.NAME
        if self.data.parent == self.checkpoints:
            found["data.manifest.json"] = manifest_path(self.data)
        return {name: file for name, file in found.items() if file.is_file()}
