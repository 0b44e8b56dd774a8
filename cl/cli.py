"""From argv to frozen configs. Imports neither torch nor anything that does, so that help and refusals come at once."""

import argparse
import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from cl.config.flags import Field, add_flags, as_typed, convert, fields_of
from cl.config.methods import DEFAULT, METHODS
from cl.config.programs import Linear, Origins, Parts, Pretrain, config_parts, preset_layers, resolve_values
from cl.config.resume import Resume, resume_of
from cl.errors import INTERRUPTED, NOT_WRITTEN, Stopped, UserError

P = TypeVar("P", Pretrain, Linear)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
HELP = {"-h", "--help"}
AUTO_BATCH = "batch_size auto"  # among what was typed: no value, but a question to --dry_run


@dataclass(frozen=True)
class Resolved(Generic[P]):
    """A program's config, and where each of its values came from."""

    config: P
    origins: Origins
    argv: tuple[str, ...]
    auto_batch: bool = False  # --batch_size auto: what --dry_run is asked
    resume: Resume | None = None  # the run that goes on


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Call `main` with the command line; what is no bug is one line and an exit code (cl/errors.py)."""
    for stream in (sys.stdout, sys.stderr):  # file names need not be UTF-8, and a message must not die of one
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    first = os.environ.get("RANK", "0") == "0"  # of several processes one says it
    try:
        return main(sys.argv[1:])
    except UserError as error:
        said = f"error: {error}".replace("\n", " ") if first else ""  # what was typed may have lines
        code = 2
    except Stopped as stop:
        said = f"stopped: {stop}" if str(stop) else ""
        code = stop.code
    except KeyboardInterrupt:
        said = "stopped: Ctrl-C" if first else ""
        code = INTERRUPTED
    except RuntimeError as error:
        said = _death_of_another(str(error))
        code = 1
        if not said:
            raise
    except OSError as error:
        if error.errno not in DISK:
            raise
        said = f"stopped: {error.filename or 'a file'} cannot be written ({error.strerror})"
        code = NOT_WRITTEN
    if said:
        print(said, file=sys.stderr)
    sys.exit(code)


def _death_of_another(error: str) -> str:
    """What torch raises, wherever the program is at, when a process that it needs is gone; "" for other errors."""
    worker = re.match("DataLoader worker .*(exited unexpectedly|killed by signal: Killed)", error)
    if worker:
        return f"stopped: {worker[0]}; if memory ran out, a smaller --num_workers or --batch_size helps"
    return "stopped: another process of the run has ended" if re.search("Connection .*by peer", error) else ""


def parse(program: type[P], argv: Sequence[str]) -> Resolved[P]:
    """The config that `argv` asks for; UserError if argv alone shows that it cannot be."""
    resume = resume_of(argv)
    method = _chosen_method(argv, resume) if program is Pretrain else None
    parts = config_parts(program, method)
    if not HELP.isdisjoint(argv):
        _print_help(program, argv, parts, method)
        sys.exit(0)
    parser = _parser(program, parts)
    _refuse_unknown(argv, parser, parts)
    typed = _typed(parser, argv, parts)
    if "method" in typed:
        typed["method"] = method  # also where --supervised made it supcon
    auto_batch = typed.pop(AUTO_BATCH, False)
    layers = preset_layers(program, typed, method)
    if resume is not None:
        declared = _fields(parts)
        resume.refuse_changes(typed, declared)
        layers = resume.layers(typed, declared) | ({} if resume.begun else layers)
    values, origins = resolve_values(parts, layers)
    if auto_batch and not values["run"]["dry_run"]:
        raise UserError("--batch_size: got auto, expected an integer; --batch_size auto --dry_run finds the largest")
    built: dict[str, Any] = {name: part(**values[name]) for name, part in parts.items()}
    if program is Pretrain:
        built["backbone"].refuse_typed(typed)
    return Resolved(program(**built), origins, tuple(argv), auto_batch, resume)


def _fields(parts: Parts) -> dict[str, Field]:
    """All declared flags by name."""
    return {declared.name: declared for part in parts.values() for declared in fields_of(part)}


def _print_help(program: type[P], argv: Sequence[str], parts: Parts, method: str | None) -> None:
    """Every flag with the value that it has when it is not typed, as far as `argv` can be read."""
    typed = _typed_values(_parser(program, parts), [word for word in argv if word not in HELP], parts)
    presets = {name: layer for name, layer in preset_layers(program, typed, method).items() if name != "typed"}
    values, origins = resolve_values(parts, presets)
    defaults = {name: as_typed(value) for part in values.values() for name, value in part.items()}
    defaults |= {name: f"{defaults[name]}: {origin}" for name, origin in origins.items() if origin != "default"}
    _parser(program, parts, defaults).print_help()


def _typed_values(parser: argparse.ArgumentParser, argv: Sequence[str], parts: Parts) -> dict[str, Any]:
    """What was typed and is valid: help must not depend on the rest."""
    declared = _fields(parts)
    typed = {}
    with suppress(UserError):
        for name, words in vars(parser.parse_known_intermixed_args(list(argv))[0]).items():
            with suppress(UserError):
                typed[name] = convert(declared[name], words)
    return typed


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _script(program: type) -> str:
    return "main_contrastive.py" if program is Pretrain else "main_linear.py"


def _chosen_method(argv: Sequence[str], resume: Resume | None) -> str:
    """The method, which decides which flags there are. --supervised makes SupCon of SimCLR."""
    early = _Parser(allow_abbrev=False, add_help=False)
    early.add_argument("--method", default=str(resume.values.get("method", DEFAULT)) if resume else DEFAULT)
    early.add_argument("--supervised", action="store_true")
    typed, _ = early.parse_known_args(list(argv))
    if typed.method not in METHODS:
        nearest = _nearest(typed.method, METHODS)
        raise UserError(f"--method: got {typed.method}, expected one of {', '.join(METHODS)}{nearest}")
    if not typed.supervised:
        return str(typed.method)
    supervised = METHODS[typed.method].supervised
    if supervised is None:
        able = " or ".join(name for name, config in METHODS.items() if config.supervised)
        raise UserError(f"--supervised: got it with --method {typed.method}, expected --method {able}")
    return supervised


def _parser(program: type, parts: Parts, defaults: Mapping[str, str] = {}) -> "_Parser":
    """A parser of all flags of a program; `defaults` has what --help says of each flag's default."""
    script = _script(program)
    parser = _Parser(prog=script, usage=f"{script} DATASET ENCODER [flags]", allow_abbrev=False, add_help=False)
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own does not know -1e-3
    for name, part in parts.items():
        add_flags(parser, part, (part.__doc__ or name).split(". ")[0].rstrip("."), defaults)
    parser.add_argument_group("help").add_argument(
        "-h", "--help", action="store_true", default=argparse.SUPPRESS, help="values for the given data set and method"
    )
    return parser


def _refuse_unknown(argv: Sequence[str], parser: argparse.ArgumentParser, parts: Parts) -> None:
    """A typo, an abbreviation or another method's flag, with the nearest right one."""
    known = set(parser._option_string_actions)
    for word in argv:
        spelling = word.split("=")[0]
        if not re.match("--?[a-zA-Z]", spelling) or spelling in known:
            continue
        owners = [name for name, config in METHODS.items() if any(spelling in _spellings(d) for d in fields_of(config))]
        if owners and "method" in parts:
            raise UserError(f"{spelling}: a flag of --method {' or '.join(owners)}, not of this run's method")
        nearest = _nearest("--" + spelling.lstrip("-"), known)
        raise UserError(f"{spelling}: no such flag{nearest}; --help lists them all")


def _spellings(declared: Field) -> tuple[str, ...]:
    return (f"--{declared.name}", *declared.flag.aliases, *declared.flag.shorthands)


def _nearest(word: str, known: Sequence[str] | set[str] | Mapping[str, object]) -> str:
    """A suggestion: the flag that `word` abbreviates, else the most similar one."""
    starts = [each for each in sorted(known) if each.startswith(word)]
    near = starts or difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def _typed(parser: argparse.ArgumentParser, argv: Sequence[str], parts: Parts) -> dict[str, Any]:
    """What was typed, as values by field name."""
    namespace, extra = parser.parse_known_intermixed_args(list(argv))
    declared = _fields(parts)
    missing = [name for name, d in declared.items() if d.flag.positional and name not in namespace]
    if missing:
        raise UserError(f"{' and '.join(missing)}: not given, expected before the flags: {parser.prog} digits resnet18")
    if extra:
        raise UserError(
            f"{' '.join(extra)}: not a flag's value, expected two words before the flags: {parser.prog} digits resnet18"
        )
    typed: dict[str, Any] = {}
    for name, words in vars(namespace).items():  # in the order of typing
        if (name, words) == ("batch_size", "auto"):
            typed[AUTO_BATCH] = True
            continue
        typed[name] = convert(declared[name], words)
        for other in declared[name].flag.overrides:
            typed.pop(other, None)
    return typed
