"""Rows to samples, by a schema: which fields are the prompt, the answer and what goes with them."""

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from fnsft.config.presets import Preset
from fnsft.data.conversations import (
    ASKING,
    EQUAL,
    UNANSWERED,
    pair_of,
    read_turns,
    reason_against,
    reason_against_pair,
    samples_of,
)
from fnsft.data.fields import FieldTemplate, Part, Values, fields_of, is_in, value_at
from fnsft.data.samples import Sample
from fnsft.errors import InputError


@dataclass(frozen=True)
class Schema:
    """Templates of a sample's parts; of a conversation ``completion`` names the list of turns.

    With ``rejected`` a sample is a pair, of which ``completion`` is the chosen answer, or the
    conversation that it ends; ``prompt`` may be the turns before it, or the question alone.
    """

    kind: Literal["plain", "question", "instruction", "conversation", "text"]
    prompt: str
    completion: str
    context: str = ""
    rejected: str = ""

    @classmethod
    def of(cls, preset: Preset) -> Self:
        """Return what a preset says."""
        parts = (preset.prompt, preset.completion, preset.context, preset.rejected)
        return cls(preset.kind, *parts)

    @property
    def fields(self) -> list[str]:
        """All fields that it reads; of a conversation also a system message beside the turns."""
        system = ["system"] if self.kind == "conversation" else []
        return fields_of(self.text) + system

    @property
    def text(self) -> str:
        """All templates, one behind the other."""
        return self.prompt + self.completion + self.context + self.rejected

    @property
    def needed(self) -> list[str]:
        """The fields without which it does not fit; what stands with an instruction may lack."""
        context = self.context if self.kind == "question" else ""
        return fields_of(self.prompt + self.completion + self.rejected + context)

    def described(self) -> str:
        """Return one line of what is read from where."""
        answer = "chosen" if self.rejected else "completion"
        parts = {"prompt": self.prompt, answer: self.completion, "rejected": self.rejected}
        parts["context"] = self.context
        said = ", ".join(f"{name} = {part!r}" for name, part in parts.items() if part)
        return f"{self.kind}: {said}"

    def columns(self) -> str:
        """Return the ``--columns`` that say the same."""
        if self.rejected:
            parts = {"prompt": self.prompt, "chosen": self.completion, "rejected": self.rejected}
            parts["context"] = self.context
            named = [f"{name}={_bare(part)}" for name, part in parts.items() if part]
            return f"--columns {','.join(named)}"
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
        self._rejected = self._template("rejected", self.schema.rejected)

    def _template(self, part: Part, template: str) -> FieldTemplate:
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

        A pair is one sample; one of equal answers is none.

        Raises
        ------
        InputError
            For a field that is missing or of another type, and what is no conversation.
        """
        where = f"{self.where} row {number}"
        if self.schema.kind == "conversation":
            if self.schema.rejected:
                return self._conversations(number, row, where)
            return self._conversation(number, row, where, turns)
        prompt = self._prompt.fill(row, where)
        completion = self._completion.fill(row, where)
        rejected = self._rejected.fill(row, where) if self.schema.rejected else ""
        empty = {"prompt": prompt, "answer": completion, "rejected answer": rejected}
        if missing := [part for part, text in empty.items() if text is None]:
            return self._leave_out(f"with an empty {missing[0]}", number)
        assert prompt is not None and completion is not None and rejected is not None
        if completion.strip() == rejected.strip():
            return self._leave_out(EQUAL, number)
        context = self._context.fill(row, where) or ""
        kind = self.schema.kind
        return [Sample(kind, completion, question=prompt, context=context, rejected=rejected)]

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
        found = self._messages(self.schema.completion, row, where)
        if found is None:
            return self._leave_out(UNANSWERED, number)
        read = read_turns(found, self._system(row, where), where)
        reason = reason_against(read)
        return self._leave_out(reason, number) if reason else samples_of(read, turns)

    def _conversations(self, number: int, row: dict[str, Any], where: str) -> list[Sample]:
        """Read two conversations that differ in their last answer."""
        before = value_at(row, _bare(self.schema.prompt)) if self.schema.prompt else None
        if isinstance(before, str):
            before = [{"role": "user", "content": before}]
        answers = []
        for part in (self.schema.completion, self.schema.rejected):
            found = self._messages(part, row, where)
            if found is None:
                return self._leave_out(UNANSWERED, number)
            whole = any(
                isinstance(t, dict) and t.get("role", t.get("from")) in ASKING for t in found
            )
            found = [*before, *found] if isinstance(before, list) and not whole else found
            answers.append(read_turns(found, self._system(row, where), where))
        reason = reason_against_pair(*answers)
        return self._leave_out(reason, number) if reason else [pair_of(*answers)]

    def _messages(self, part: str, row: dict[str, Any], where: str) -> list[Any] | None:
        path = _bare(part)
        if not is_in(row, path):
            raise InputError(f"{where}: expected the field {path!r}, found {', '.join(row)}")
        found = value_at(row, path)
        if found is not None and not isinstance(found, list):
            remedy = "; name their prompt too (--columns)" * bool(self.schema.rejected)
            raise InputError(
                f"{where}: {path}: expected a list of turns, found {found!r:.60}{remedy}"
            )
        return found

    def _system(self, row: dict[str, Any], where: str) -> str | None:
        system = row.get("system")
        if system is not None and not isinstance(system, str):
            raise InputError(f"{where}: system: expected text, found {system!r:.60}")
        return system

    def _leave_out(self, reason: str, number: int) -> list[Sample]:
        count, first = self.left_out.get(reason, (0, number))
        self.left_out[reason] = (count + 1, first)
        return []


def _bare(template: str) -> str:
    return template.strip("{}")
