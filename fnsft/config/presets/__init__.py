"""Tasks by name: small YAML files that say where rows come from and how they are read.

``fnsft train --preset gsm8k``; copy a file, change it, and give its path instead of a name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml

from fnsft.config.settings import Settings, setting
from fnsft.errors import InputError

FOLDER = Path(__file__).parent
# What a sample is: a prompt as it stands, a question, an instruction, or a text without one.
Kind = Literal["plain", "question", "instruction", "text"]


@dataclass(frozen=True)
class Preset(Settings):
    """One task: its rows' origin, and templates such as ``{question}`` that fields fill in."""

    stage: ClassVar[str] = "preset"

    description: str = setting("", "one line: what it is, and whose")
    licence: str = setting("", "of the data, as published")
    hub_name: str | None = setting(None, "data set on the hub; absent: give --data")
    hub_config: str | None = setting(None, "its configuration")
    train: str = setting("train", "split that is trained on")
    validation: str | None = setting(None, "split that validates")
    test: str | None = setting(None, "split that scores")
    kind: Kind = setting("plain", "what a sample is, which decides how templates write it")
    prompt: str = setting("", "template of what is asked; none for kind text")
    completion: str = setting("", "template of the answer, or of the text")
    context: str = setting("", "template of what stands with the question")
    rejected: str = setting("", "of pairs: template of the answer that is not preferred")
    score: Literal["none", "number", "exact"] = setting(
        "none", "how answers to test samples are scored: the number after ####, or the whole text"
    )


@dataclass(frozen=True)
class TaskPreset:
    """A preset and the names of its values: ``{"label": ["World", …]}`` writes 0 as World."""

    name: str
    preset: Preset
    values: dict[str, list[str]]

    @classmethod
    def read(cls, name: str) -> Self:
        """Read a preset by its name, or from a YAML file.

        Raises
        ------
        InputError
            For a name that no preset has, and a file that is none.
        """
        path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(preset_names())
            raise InputError(f"preset: expected one of {known}, or a YAML file, found {name!r}")
        try:
            found = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: expected YAML, found {reason:.160}") from None
        if not isinstance(found, dict):
            raise InputError(f"{path}: expected a mapping of settings, found {found!r:.60}")
        values = _values(found.pop("values", {}), path)
        preset = Preset.from_mapping(found, str(path))
        if not preset.completion or bool(preset.prompt) == (preset.kind == "text"):
            raise InputError(
                f"{path}: expected a prompt and a completion, or for kind text a completion alone"
            )
        return cls(name, preset, values)


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FOLDER.rglob("*.yaml"))


def _values(found: Any, path: Path) -> dict[str, list[str]]:
    if not isinstance(found, dict) or not all(isinstance(v, list) for v in found.values()):
        raise InputError(f"{path}: values: expected lists of names by field, found {found!r:.60}")
    for name in (name for names in found.values() for name in names):
        if not isinstance(name, str):  # YAML reads no and yes as False and True
            raise InputError(
                f"{path}: values: expected names, found {name!r}; put quotation marks around it"
            )
    return {str(field): list(names) for field, names in found.items()}
