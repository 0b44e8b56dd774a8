"""Frozen dataclass <-> argparse group <-> plain dict. Each field is declared once: `name: Annotated[type, Flag(...)]`.

lr: Annotated[float, Flag("learning rate per 256 images", above=0)] = 0.3
"""

import argparse
import dataclasses
import math
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from cl.errors import UserError
from cl.machine.home import home_folder


@dataclass(frozen=True)
class Flag:
    """What a field's type does not express: help, range, spellings, and the fields that it overrides."""

    help: str
    low: float = -math.inf  # inclusive
    above: float = -math.inf  # exclusive
    high: float = math.inf  # inclusive
    choices: Collection[str] = ()
    aliases: tuple[str, ...] = ()
    shorthands: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # {"--dali": "dali"}: a flag that sets this value
    positional: bool = False
    overrides: tuple[str, ...] = ()  # fields that set the same thing: the last one typed wins
    resume: Literal["same", "free"] = "same"  # free: may change when a run is resumed


_ONE = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
_SEVERAL = {int: "one or more integers", float: "one or more numbers", str: "one or more words"}


@dataclass(frozen=True)
class Field:
    """A declared flag."""

    name: str
    kind: type  # int, float, str or bool
    optional: bool  # may be None
    many: bool  # a tuple of `kind`
    pair: bool  # one of `kind`, or two: int | tuple[int, int]
    default: Any
    flag: Flag

    @property
    def spelling(self) -> str:
        return self.name if self.flag.positional else f"--{self.name}"

    @property
    def expected(self) -> str:
        """The valid values, in words."""
        flag = self.flag
        if flag.choices:
            return "one of " + ", ".join(flag.choices)
        if self.pair:
            return f"one or two integers from {flag.low:.10g} to {flag.high:.10g}"
        noun = _SEVERAL[self.kind] if self.many else _ONE[self.kind]
        bounds = [f"at least {flag.low:.10g}"] if flag.low > -math.inf else []
        bounds += [f"above {flag.above:.10g}"] if flag.above > -math.inf else []
        bounds += [f"at most {flag.high:.10g}"] if flag.high < math.inf else []
        return f"{noun} {' and '.join(bounds)}".strip()


@dataclass(frozen=True)
class Config:
    """Base of all configs. Every instance is checked, whether its values are typed, preset or loaded from a file."""

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            check(field, self.__dict__[field.name])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, also after a round trip through JSON."""
        known = {field.name: field for field in fields_of(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(f"{', '.join(unknown)}: no such field in {cls.__name__}; it has {', '.join(known)}")
        lists = {name: tuple(value) for name, value in values.items() if known[name].many and value is not None}
        lists |= {name: tuple(value) for name, value in values.items() if known[name].pair and isinstance(value, list)}
        return cls(**{**values, **lists})


def fields_of(config: type[Config]) -> tuple[Field, ...]:
    """The flags that a config class declares, those of its parents first."""
    hints = get_type_hints(config, include_extras=True)
    fields = []
    for attribute in dataclasses.fields(config):
        annotation, flag = get_args(hints[attribute.name])
        several = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        first, *others = (kind for kind in several if kind is not types.NoneType)
        many = get_origin(first) is tuple
        field = Field(
            attribute.name,
            kind=get_args(first)[0] if many else first,
            optional=types.NoneType in several,
            many=many,
            pair=bool(others),
            default=None if attribute.default is dataclasses.MISSING else attribute.default,
            flag=flag,
        )
        fields.append(field)
    return tuple(fields)


def check(field: Field, value: Any) -> None:
    """Raise UserError unless `value` has the field's type and lies in its range."""
    if value is None and field.optional:
        return
    values = value if (field.many or field.pair) and isinstance(value, tuple) else (value,)
    if (field.pair and len(values) not in (1, 2)) or not all(_is_valid(field, item) for item in values):
        raise UserError(f"{field.spelling}: got {as_typed(value)}, expected {field.expected}")


def _is_valid(field: Field, value: Any) -> bool:
    flag = field.flag
    if type(value) not in ((float, int) if field.kind is float else (field.kind,)):
        return False
    if flag.choices:
        return value in flag.choices
    if isinstance(value, str):
        return value != ""
    return flag.low <= value <= flag.high and flag.above < value < math.inf  # not isfinite: it fails for huge integers


def as_typed(value: Any) -> str:
    """A value as it would be typed on the command line."""
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return " ".join(map(as_typed, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def add_flags(
    parser: argparse.ArgumentParser, fields: Iterable[Field], title: str, defaults: Mapping[str, str]
) -> None:
    """Add flags as one argparse group; `defaults` maps names to the default that --help shows."""
    group = parser.add_argument_group(title)
    for field in fields:
        flag = field.flag
        name = field.name
        text = (f"{flag.help} [{defaults[name]}]" if name in defaults else flag.help).replace("%", "%%")
        if flag.positional:
            group.add_argument(name, nargs="?", default=argparse.SUPPRESS, help=text, metavar=name)
            continue
        spellings = (f"--{name}", *flag.aliases)
        if field.kind is bool:
            _add_constant(group, spellings, dest=name, value="true", text=text)
            _add_constant(group, (f"--no_{name}",), dest=name, value="false", text=f"the opposite of --{name}")
        else:
            nargs = "+" if field.many else None
            metavar = "{" + ",".join(flag.choices) + "}" if flag.choices else field.kind.__name__.upper()
            group.add_argument(
                *spellings,
                dest=name,
                action=_StoreWords,
                nargs=nargs,
                metavar=metavar,
                default=argparse.SUPPRESS,
                help=text,
            )
        for spelling, value in flag.shorthands.items():
            _add_constant(group, (spelling,), dest=name, value=value, text=f"same as --{name} {value}")


def _add_constant(group: Any, spellings: Sequence[str], dest: str, value: str, text: str) -> None:
    """Add a flag that takes no value and sets `value`."""
    group.add_argument(
        *spellings, dest=dest, action=_StoreWords, nargs=0, const=value, default=argparse.SUPPRESS, help=text
    )


class _StoreWords(argparse.Action):
    """Store the typed words at the end of the namespace, which keeps it in the order of typing."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.__dict__.pop(self.dest, None)
        namespace.__dict__[self.dest] = self.const if self.nargs == 0 else values


def convert(field: Field, typed: str | list[str]) -> Any:
    """Convert typed words to the field's value; raise UserError if it is invalid."""
    words = typed if isinstance(typed, list) else [typed]
    if field.pair and isinstance(typed, str):
        words = typed.split() or [typed]
    if field.kind is str:
        words = [without_tilde(word, field.spelling) for word in words]
    try:
        values = tuple(_convert_word(field.kind, word) for word in words)
    except ValueError:
        raise UserError(f"{field.spelling}: got {' '.join(words)}, expected {field.expected}") from None
    is_one = len(values) == 1 or (len(values) == 2 and values[0] == values[1])
    value = values[0] if is_one and not field.many else values
    check(field, value)
    return value


def _convert_word(kind: type, word: str) -> Any:
    return {"true": True, "false": False}[word] if kind is bool else kind(word)


def without_tilde(word: str, name: str) -> str:
    """Expand ~ at the start of a path: the shell does not in --flag=~/path, and a folder called ~ is a trap."""
    if word != "~" and not word.startswith("~/"):
        return word
    home = home_folder()
    if home is None:
        raise UserError(f"{name}: got {word}, but there is no home folder; expected a path without ~")
    return str(home) + word[1:]


def typed_path(word: str) -> Path:
    """The type of argparse's arguments that are paths."""
    return Path(without_tilde(word, "path"))
