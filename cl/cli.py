"""Turn argv into frozen configs. Does not import torch, directly or indirectly, so help and refusals are immediate."""

import argparse
import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from cl.config.flags import Config, Field, add_flags, as_typed, convert, fields_of
from cl.config.methods import DEFAULT, METHODS
from cl.config.programs import MOST_USED, Linear, Origins, Parts, Pretrain, config_parts, preset_layers, resolve_values
from cl.config.resume import Resume, resume_of
from cl.errors import INTERRUPTED, NOT_WRITTEN, LauncherError, Stopped, UserError, one_line
from cl.machine.children import lost_worker
from cl.machine.completion import COMPLETION, completion
from cl.machine.home import replace_missing_folders
from cl.machine.started_as import shown, version

P = TypeVar("P", Pretrain, Linear)
Words = str | list[str]  # a flag's value as typed; a list if the flag takes several
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
HELP = {"-h", "--help"}
VERSION = "--version"


@dataclass(frozen=True)
class Resolved(Generic[P]):
    """A program's config, and the origin of each value."""

    config: P
    origins: Origins
    argv: tuple[str, ...]
    auto_batch: bool = False  # --batch_size auto was typed: --dry_run searches for the largest batch
    resume: Resume | None = None  # the run to resume
    notes: tuple[str, ...] = ()  # warnings for the banner


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Call `main` with the command line; report expected errors as one line and an exit code (cl/errors.py)."""
    for stream in (sys.stdout, sys.stderr):  # file names need not be UTF-8, and printing one must not raise
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    replace_missing_folders()
    is_first = os.environ.get("RANK", "0") == "0"  # only one of several processes prints
    try:
        return main(sys.argv[1:])
    except UserError as error:
        printed = is_first or isinstance(error, LauncherError)
        line = f"error: {error}" if printed else ""
        code = 2
    except Stopped as stop:
        line = f"stopped: {stop}" if str(stop) else ""
        code = stop.code
    except KeyboardInterrupt:
        line = "stopped: Ctrl-C" if is_first else ""
        code = INTERRUPTED
    except RuntimeError as error:
        line = _lost_process(str(error))
        code = 1
        if not line:
            raise
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        line = f"stopped: {error.filename or 'a file'} cannot be written ({error.strerror})"
        code = NOT_WRITTEN
    if line:
        print(one_line(line.replace("\n", " ")), file=sys.stderr)  # typed values and names may contain anything
    sys.exit(code)


def _lost_process(error: str) -> str:
    """The line to print if torch raised `error` because another process died; "" for other errors."""
    worker = lost_worker(error)
    if worker:
        return f"stopped: {worker}"
    return "stopped: another process of the run has ended" if re.search("Connection .*by peer", error) else ""


def parse(program: type[P], argv: Sequence[str]) -> Resolved[P]:
    """Resolve `argv` to a config; raise UserError for every mistake that argv alone reveals."""
    if VERSION in argv:
        print(version())
        sys.exit(0)
    resume = resume_of(argv)
    method = _method_name(argv, resume) if program is Pretrain else None
    parts = config_parts(program, method)
    if not HELP.isdisjoint(argv):
        _print_help(program, argv, parts, method)
        sys.exit(0)
    parser = _build_parser(program, parts)
    fields = _fields_by_name(parts)
    if any(word.startswith(COMPLETION) for word in argv):
        print(completion(parser, {name: field.flag.choices for name, field in fields.items()}, argv))
        sys.exit(0)
    _refuse_unknown_flags(argv, parser, parts)
    words = _words_by_field(parser, argv, fields)
    auto_batch = words.get("batch_size") == "auto"
    if auto_batch:
        del words["batch_size"]
    typed = _convert_words(words, fields)
    if "method" in typed:
        typed["method"] = method  # --supervised counts wherever it is typed
    layers = preset_layers(program, typed, method)
    if resume is not None:
        if resume.begun and typed.get("precision") == "auto":  # the run keeps what it stood for, on any machine
            del typed["precision"]
        resume.refuse_changes(typed, fields)
        resumed = resume.layers(typed, fields)
        layers = resumed if resume.begun else resumed | layers
    values, origins = resolve_values(parts, layers)
    if auto_batch and not values["run"]["dry_run"]:
        raise UserError(
            "--batch_size: got auto, expected an integer; --batch_size auto --dry_run finds the largest that fits"
        )
    configs: dict[str, Any] = {name: part(**values[name]) for name, part in parts.items()}
    if program is Pretrain:
        configs["backbone"].refuse_typed(typed)
    return Resolved(program(**configs), origins, tuple(argv), auto_batch=auto_batch, resume=resume)


def _fields_by_name(parts: Parts) -> dict[str, Field]:
    return {field.name: field for part in parts.values() for field in fields_of(part)}


def _print_help(program: type[P], argv: Sequence[str], parts: Parts, method: str | None) -> None:
    """Print every flag with its default for this `argv`, ignoring mistakes in it."""
    typed = _valid_values(_build_parser(program, parts), [word for word in argv if word not in HELP], parts)
    presets = {name: layer for name, layer in preset_layers(program, typed, method).items() if name != "typed"}
    values, origins = resolve_values(parts, presets)
    defaults = {name: as_typed(value) for part in values.values() for name, value in part.items()}
    defaults |= {name: f"{defaults[name]}: {origin}" for name, origin in origins.items() if origin != "default"}
    _build_parser(program, parts, defaults).print_help()


def _valid_values(parser: argparse.ArgumentParser, argv: Sequence[str], parts: Parts) -> dict[str, Any]:
    """The typed values that are valid; the others are ignored."""
    fields = _fields_by_name(parts)
    typed = {}
    with suppress(UserError):
        for name, words in vars(parser.parse_known_intermixed_args(_with_pairs_joined(argv, fields))[0]).items():
            with suppress(UserError):
                typed[name] = convert(fields[name], words)
    return typed


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _method_name(argv: Sequence[str], resume: Resume | None) -> str:
    """The method, which must be known before its flags can be parsed; --supervised turns SimCLR into SupCon."""
    default = str(resume.values.get("method", DEFAULT)) if resume else DEFAULT
    early = _Parser(allow_abbrev=False, add_help=False)
    early.add_argument("--method", default=default)
    early.add_argument("--supervised", action="store_true")
    typed, _ = early.parse_known_args(list(argv))
    if typed.method not in METHODS:
        hint = _suggestion(typed.method, METHODS)
        raise UserError(f"--method: got {typed.method}, expected one of {', '.join(METHODS)}{hint}")
    if not typed.supervised:
        return str(typed.method)
    supervised = METHODS[typed.method].supervised
    if supervised is None:
        supported = " or ".join(name for name, config in METHODS.items() if config.supervised)
        raise UserError(f"--supervised: got it with --method {typed.method}, expected --method {supported}")
    return supervised


def _build_parser(program: type, parts: Parts, defaults: Mapping[str, str] = {}) -> _Parser:
    """A parser of all the program's flags; `defaults` maps field names to the default that --help shows."""
    name = shown("pretrain" if program is Pretrain else "linear")
    parser = _Parser(prog=name, usage=f"{name} DATASET ENCODER [flags]", allow_abbrev=False, add_help=False)
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own does not match -1e-3
    fields = _fields_by_name(parts)
    add_flags(parser, [fields[name] for name in MOST_USED[program]], "The flags that most people need", defaults)
    for name, part in parts.items():
        title = (part.__doc__ or name).split(". ")[0].rstrip(".")
        others = [field for field in fields_of(part) if field.name not in MOST_USED[program]]
        add_flags(parser, others, title, defaults)
    about = parser.add_argument_group("help")
    help_text = "show all flags with their defaults for this data set and method"
    about.add_argument("-h", "--help", action="store_true", default=argparse.SUPPRESS, help=help_text)
    about.add_argument(VERSION, action="store_true", default=argparse.SUPPRESS, help="show the version")
    about.add_argument(
        COMPLETION, metavar="{bash,zsh,tcsh}", default=argparse.SUPPRESS, help="print what completes flags in a shell"
    )
    return parser


def _refuse_unknown_flags(argv: Sequence[str], parser: argparse.ArgumentParser, parts: Parts) -> None:
    """Raise UserError for a typo, an abbreviation or another method's flag, and suggest the nearest valid flag."""
    valid = set(parser._option_string_actions)
    for word in argv:
        flag = word.split("=")[0]
        if not re.match("--?[a-zA-Z]", flag) or flag in valid:
            continue
        owners = [name for name, config in METHODS.items() if flag in _spellings(config)]
        if owners and "method" in parts:
            raise UserError(f"{flag}: a flag of --method {' or '.join(owners)}, not of this run's method")
        hint = _suggestion("--" + flag.lstrip("-"), valid)
        raise UserError(f"{flag}: no such flag{hint}; --help lists them all")


def _spellings(config: type[Config]) -> set[str]:
    """All spellings of a config's flags, without the --no_ forms."""
    fields = fields_of(config)
    return {
        spelling for field in fields for spelling in (f"--{field.name}", *field.flag.aliases, *field.flag.shorthands)
    }


def _suggestion(word: str, valid: Iterable[str]) -> str:
    """A "did you mean" clause: the first of `valid` that starts with `word`, else the most similar one, else ""."""
    names = sorted(valid)
    matches = [name for name in names if name.startswith(word)]
    matches = matches or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f", did you mean {matches[0]}?" if matches else ""


def _words_by_field(
    parser: argparse.ArgumentParser, argv: Sequence[str], fields: Mapping[str, Field]
) -> dict[str, Words]:
    """The typed words by field name, in the order of typing."""
    namespace, extra = parser.parse_known_intermixed_args(_with_pairs_joined(argv, fields))
    missing = [name for name, field in fields.items() if field.flag.positional and name not in namespace]
    example = f"{parser.prog} digits resnet18"
    if missing:
        raise UserError(f"{' and '.join(missing)}: not given, expected before the flags: {example}")
    if extra:
        raise UserError(f"{' '.join(extra)}: not a flag's value, expected two words before the flags: {example}")
    return vars(namespace)


def _with_pairs_joined(argv: Sequence[str], fields: Mapping[str, Field]) -> list[str]:
    """`--crop_size 96 160` with one word for the two numbers: a flag of many words would take the positionals too."""
    pairs = {f"--{name}" for name, field in fields.items() if field.pair}
    joined: list[str] = []
    for word in argv:
        flag, is_joined, _ = joined[-1].partition("=") if joined else ("", "", "")
        follows = flag in pairs if is_joined else joined[-2:-1] and joined[-2] in pairs and flag[:1].isdecimal()
        if follows and word.isdecimal():
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def _convert_words(words: Mapping[str, Words], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Values by field name; a field removes earlier ones that it overrides."""
    typed: dict[str, Any] = {}
    for name, value in words.items():
        typed[name] = convert(fields[name], value)
        for overridden in fields[name].flag.overrides:
            typed.pop(overridden, None)
    return typed
