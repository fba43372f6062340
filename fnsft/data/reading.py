"""Rows to samples, by a schema: which fields are the prompt, the answer and what goes with them."""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from fnsft.config.presets import Preset
from fnsft.data.conversations import read_turns, reason_against, samples_of
from fnsft.data.fields import FieldTemplate, Values, fields_of, is_in, value_at
from fnsft.data.samples import Sample
from fnsft.errors import InputError


@dataclass(frozen=True)
class Schema:
    """Templates of a sample's parts; of a conversation ``completion`` names the list of turns."""

    kind: Literal["plain", "question", "instruction", "conversation", "text"]
    prompt: str
    completion: str
    context: str = ""

    @classmethod
    def of(cls, preset: Preset) -> Self:
        """Return what a preset says."""
        return cls(preset.kind, preset.prompt, preset.completion, preset.context)

    @property
    def fields(self) -> list[str]:
        """All fields that it reads; of a conversation also a system message beside the turns."""
        system = ["system"] if self.kind == "conversation" else []
        return fields_of(self.prompt + self.completion + self.context) + system

    @property
    def needed(self) -> list[str]:
        """The fields without which it does not fit; what stands with an instruction may lack."""
        context = self.context if self.kind == "question" else ""
        return fields_of(self.prompt + self.completion + context)

    def described(self) -> str:
        """Return one line of what is read from where."""
        parts = {"prompt": self.prompt, "completion": self.completion, "context": self.context}
        said = ", ".join(f"{name} = {part!r}" for name, part in parts.items() if part)
        return f"{self.kind}: {said}"

    def columns(self) -> str:
        """Return the ``--columns`` that say the same."""
        if self.kind in ("text", "conversation"):
            key = "text" if self.kind == "text" else "messages"
            return f"--columns {key}={_bare(self.completion)}"
        if len(fields_of(self.completion)) > 1:
            return "--preset medical-o1"
        context = f",context={_bare(self.context)}" if self.context else ""
        return f"--columns prompt={_bare(self.prompt)},completion={_bare(self.completion)}{context}"


@dataclass(eq=False)
class Reader:
    """Turns rows into samples, and counts those that give none.

    ``left_out`` maps a reason to how many rows it holds for and the number of the first one;
    ``unused`` are fields that rows have and that go into no sample.
    """

    where: str
    schema: Schema
    values: Values = field(default_factory=dict)
    name: str = ""
    unused: tuple[str, ...] = ()
    left_out: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._prompt = self._template("prompt", self.schema.prompt)
        self._completion = self._template("completion", self.schema.completion)
        self._context = self._template("context", self.schema.context)

    def _template(
        self, part: Literal["prompt", "completion", "context"], template: str
    ) -> FieldTemplate:
        remedy = functools.partial(self._columns, part)
        return FieldTemplate(part, template, self.values, remedy)

    def _columns(self, part: str, path: str) -> str:
        """Return the flags that read a part from a path, and the others as before."""
        if self.name:  # a preset says the others
            return f"--columns {part}={path}"
        return replace(self.schema, **{part: f"{{{path}}}"}).columns()  # type: ignore[arg-type]

    @property
    def described(self) -> str:
        """One line: what is read from which fields."""
        return f"{self.name}{self.schema.described()}"

    def samples(
        self, number: int, row: dict[str, Any], turns: Literal["all", "last"] = "all"
    ) -> list[Sample]:
        """Return the samples of a row: one, of a conversation several, or none.

        Raises
        ------
        InputError
            For a field that is missing or of another type, and what is no conversation.
        """
        where = f"{self.where} row {number}"
        if self.schema.kind == "conversation":
            return self._conversation(number, row, where, turns)
        prompt = self._prompt.fill(row, where)
        completion = self._completion.fill(row, where)
        if prompt is None or completion is None:
            return self._leave_out(
                "with an empty " + ("prompt" if prompt is None else "answer"), number
            )
        context = self._context.fill(row, where) or ""
        return [Sample(self.schema.kind, completion, question=prompt, context=context)]

    def omitted(self) -> str:
        """Say which rows gave no sample, and why; empty when all did."""
        said = [
            f"{count} {'row' if count == 1 else 'rows'} {reason} (the first is row {first})"
            for reason, (count, first) in self.left_out.items()
        ]
        return ", ".join(said)

    def _conversation(
        self, number: int, row: dict[str, Any], where: str, turns: Literal["all", "last"]
    ) -> list[Sample]:
        path = _bare(self.schema.completion)
        if not is_in(row, path):
            raise InputError(f"{where}: expected the field {path!r}, found {', '.join(row)}")
        found, system = value_at(row, path), row.get("system")
        if found is None:
            return self._leave_out("without an answer to a question", number)
        if not isinstance(found, list):
            raise InputError(f"{where}: {path}: expected a list of turns, found {found!r:.60}")
        if system is not None and not isinstance(system, str):
            raise InputError(f"{where}: system: expected text, found {system!r:.60}")
        read = read_turns(found, system, where)
        reason = reason_against(read)
        return self._leave_out(reason, number) if reason else samples_of(read, turns)

    def _leave_out(self, reason: str, number: int) -> list[Sample]:
        count, first = self.left_out.get(reason, (0, number))
        self.left_out[reason] = (count + 1, first)
        return []


def _bare(template: str) -> str:
    return template.strip("{}")
