"""Frozen dataclass <-> argparse group <-> plain dict. A field is declared once, as `name: Annotated[type, Flag(...)]`.

lr: Annotated[float, Flag("learning rate per 256 images", above=0)] = 0.3
"""

import argparse
import dataclasses
import math
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from cl.errors import UserError


@dataclass(frozen=True)
class Flag:
    """What a field's type cannot say: help, range, spellings, and what typing it takes back."""

    help: str
    low: float = -math.inf  # inclusive
    above: float = -math.inf  # exclusive
    high: float = math.inf  # inclusive
    choices: Collection[str] = ()
    aliases: tuple[str, ...] = ()
    shorthands: Mapping[str, str] = field(default_factory=dict)  # {"--dali": "dali"}: a flag that stands for a value
    positional: bool = False
    overrides: tuple[str, ...] = ()  # fields that say the same in another way: the last one typed wins
    resume: Literal["same", "free"] = "same"  # free: may be typed anew when a run goes on


@dataclass(frozen=True)
class Field:
    """One declared flag: name, plain type, default and Flag."""

    name: str
    kind: type
    optional: bool
    many: bool
    default: Any
    flag: Flag

    @property
    def spelling(self) -> str:
        return self.name if self.flag.positional else f"--{self.name}"

    @property
    def expected(self) -> str:
        """What the flag takes, in words."""
        flag = self.flag
        one = {int: "an integer", float: "a number", str: "text", bool: "true or false"}[self.kind]
        if flag.choices:
            return "one of " + ", ".join(flag.choices)
        bounds = [f"at least {flag.low:.10g}"] if flag.low > -math.inf else []
        bounds += [f"above {flag.above:.10g}"] if flag.above > -math.inf else []
        bounds += [f"at most {flag.high:.10g}"] if flag.high < math.inf else []
        return f"{one}{' or several' * self.many} {' and '.join(bounds)}".strip()


@dataclass(frozen=True)
class Config:
    """Base of every config: frozen, and checked however it was made (typed, preset or loaded from a file)."""

    def __post_init__(self) -> None:
        for declared in fields_of(type(self)):
            check(declared, self.__dict__[declared.name])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that `dataclasses.asdict` made `values` of, also by way of JSON."""
        known = {declared.name: declared for declared in fields_of(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(f"{', '.join(unknown)}: no such field in {cls.__name__}; it has {', '.join(known)}")
        lists = {name: tuple(value) for name, value in values.items() if known[name].many and value is not None}
        return cls(**{**values, **lists})


def fields_of(config: type[Config]) -> tuple[Field, ...]:
    """The flags that a config class declares, its parents' first."""
    hints = get_type_hints(config, include_extras=True)
    declared = []
    for each in dataclasses.fields(config):
        annotation, flag = get_args(hints[each.name])
        optional = get_origin(annotation) in (Union, types.UnionType)
        plain = next(a for a in get_args(annotation) if a is not types.NoneType) if optional else annotation
        many = get_origin(plain) is tuple
        kind = get_args(plain)[0] if many else plain
        default = None if each.default is dataclasses.MISSING else each.default
        declared.append(Field(each.name, kind, optional, many, default, flag))
    return tuple(declared)


def check(declared: Field, value: Any) -> None:
    """Raise UserError unless `value` has the field's type and lies in its range."""
    if value is None and declared.optional:
        return
    values = value if declared.many and isinstance(value, tuple) else (value,)
    if not all(_allowed(declared, each) for each in values):
        raise UserError(f"{declared.spelling}: got {as_typed(value)}, expected {declared.expected}")


def _allowed(declared: Field, value: Any) -> bool:
    flag = declared.flag
    if type(value) not in ((float, int) if declared.kind is float else (declared.kind,)):
        return False
    if flag.choices:
        return value in flag.choices
    if isinstance(value, str):
        return value != ""
    return flag.low <= value <= flag.high and flag.above < value < math.inf  # no isfinite: an integer may be too long


def as_typed(value: Any) -> str:
    """A value as one would type it."""
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return " ".join(map(as_typed, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def add_flags(parser: argparse.ArgumentParser, config: type[Config], title: str, defaults: Mapping[str, str]) -> None:
    """Declare a config's flags as one argparse group; `defaults` has what `--help` says of each."""
    group = parser.add_argument_group(title)
    for declared in fields_of(config):
        flag = declared.flag
        name = declared.name
        text = (f"{flag.help} [{defaults[name]}]" if name in defaults else flag.help).replace("%", "%%")
        if flag.positional:
            group.add_argument(name, nargs="?", default=argparse.SUPPRESS, help=text, metavar=name)
            continue
        spellings = (f"--{name}", *flag.aliases)
        if declared.kind is bool:
            _add_constant(group, spellings, name, "true", text)
            _add_constant(group, (f"--no_{name}",), name, "false", f"the opposite of --{name}")
        else:
            nargs = "+" if declared.many else None
            metavar = "{" + ",".join(flag.choices) + "}" if flag.choices else declared.kind.__name__.upper()
            group.add_argument(
                *spellings,
                dest=name,
                action=_Remember,
                nargs=nargs,
                metavar=metavar,
                default=argparse.SUPPRESS,
                help=text,
            )
        for spelling, value in flag.shorthands.items():
            _add_constant(group, (spelling,), name, value, f"same as --{name} {value}")


def _add_constant(group: Any, spellings: Sequence[str], name: str, value: str, text: str) -> None:
    """Flags that take no value and stand for `value`."""
    group.add_argument(
        *spellings, dest=name, action=_Remember, nargs=0, const=value, default=argparse.SUPPRESS, help=text
    )


class _Remember(argparse.Action):
    """Keep what was typed as text, last in the namespace: its order is the order of typing."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.__dict__.pop(self.dest, None)
        namespace.__dict__[self.dest] = self.const if self.nargs == 0 else values


def convert(declared: Field, typed: str | list[str]) -> Any:
    """The field's value from what was typed; UserError names the flag."""
    words = typed if isinstance(typed, list) else [typed]
    try:
        values = tuple(_word(declared.kind, word) for word in words)
    except ValueError:
        raise UserError(f"{declared.spelling}: got {' '.join(words)}, expected {declared.expected}") from None
    value = values if declared.many else values[0]
    check(declared, value)
    return value


def _word(kind: type, word: str) -> Any:
    return {"true": True, "false": False}[word] if kind is bool else kind(word)
