"""Options of a command from the fields of a dataclass: name, type, default and help said once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

_OF_THE_FIELD = object()  # stands for the default of the field
_ENTRY = re.compile(r"^ {8}(\w+): (.*)$")


@dataclass(frozen=True)
class Flag:
    """How a field stands on the command line, where its name alone does not say so.

    Attributes:
        names: of the option, such as "--torch-compile"; of the field by default.
        annotation: type on the command line, that of the field by default.
        default: on the command line, that of the field by default.
        parse: what the command line gives -> the field's value.
        argument: it is a positional argument.
    """

    names: tuple[str, ...] = ()
    annotation: Any = None
    default: Any = _OF_THE_FIELD
    parse: Callable[[Any], Any] | None = None
    argument: bool = False


def with_options(
    kind: type, hidden: tuple[str, ...] = (), **flags: Flag
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the parameter annotated with the dataclass `kind` becomes an option a field.

    Args:
        kind: a dataclass whose docstring has an entry for every field under "Attributes:".
        hidden: fields that only Python sets.
        flags: fields that look otherwise on the command line.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        taken: str | None = None
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.annotation is kind:
                taken = parameter.name
                parameters += _parameters(kind, hidden, flags)
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        assert taken is not None
        chosen = {f.name for f in fields(kind)} - set(hidden)

        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(name) for name in chosen}
            for name, flag in flags.items():
                if flag.parse is not None:
                    values[name] = flag.parse(values[name])
            command(**given, **{taken: kind(**values)})

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        del run.__wrapped__
        return run

    return decorate


def _parameters(
    kind: type, hidden: tuple[str, ...], flags: Mapping[str, Flag]
) -> list[inspect.Parameter]:
    types, help_texts = get_type_hints(kind), described(kind)
    found = []
    order = [*kind.__annotations__, *types]  # what a dataclass adds stands before what it inherits
    for field in sorted(fields(kind), key=lambda field: order.index(field.name)):
        if field.name in hidden:
            continue
        flag = flags.get(field.name, Flag())
        make = typer.Argument if flag.argument else typer.Option
        shown = make(*flag.names, help=help_texts[field.name])
        annotation = types[field.name] if flag.annotation is None else flag.annotation
        default = field.default if flag.default is _OF_THE_FIELD else flag.default
        found.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is MISSING else default,
                annotation=Annotated[annotation, shown],
            )
        )
    return found


def described(kind: type) -> dict[str, str]:
    """Field -> its entry under "Attributes:" in the docstring, as one sentence; what a dataclass
    inherits is described where it stands.
    """
    texts: dict[str, list[str]] = {}
    for described_in in reversed(kind.__mro__):
        name = None
        for line in (described_in.__doc__ or "").partition("Attributes:")[2].splitlines():
            if (entry := _ENTRY.match(line)) is not None:
                name = entry[1]
                texts[name] = [entry[2]]
            elif name is not None and line.strip():
                texts[name].append(line.strip())
    joined = {name: " ".join(parts) for name, parts in texts.items()}
    return {name: text[:1].upper() + text[1:] for name, text in joined.items()}
