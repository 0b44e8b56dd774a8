"""From argv to frozen configs. Imports neither torch nor anything that does, so that help and refusals come at once."""

import argparse
import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from cl.config.flags import Field, add_flags, convert, fields_of, shown
from cl.config.methods import METHODS
from cl.config.presets import PRETRAIN_FLAGS, Preset
from cl.config.programs import Linear, Origins, Parts, Pretrain, layers_of, parts_of, settle
from cl.config.resume import Resume, resume_of
from cl.errors import INTERRUPTED, NOT_WRITTEN, Stopped, UserError

P = TypeVar("P", Pretrain, Linear)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
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
        said, code = f"error: {error}".replace("\n", " ") if first else "", 2  # what was typed may have lines
    except Stopped as stop:
        said, code = f"stopped: {stop}" if str(stop) else "", stop.code
    except KeyboardInterrupt:
        said, code = "stopped: Ctrl-C" if first else "", INTERRUPTED
    except RuntimeError as error:
        said, code = _death_of_another(str(error)), 1
        if not said:
            raise
    except OSError as error:
        if error.errno not in DISK:
            raise
        said, code = f"stopped: {error.filename or 'a file'} cannot be written ({error.strerror})", NOT_WRITTEN
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
    usual = str(resume.values.get("method", "simclr")) if resume else "simclr"
    method = _chosen_method(argv, usual) if program is Pretrain else None
    parts = parts_of(program, method)
    parser = _Parser(
        prog=_script(program), usage=f"{_script(program)} DATASET ENCODER [flags]", allow_abbrev=False, add_help=False
    )
    said: dict[str, Any] = {flag: True for flag in PRETRAIN_FLAGS if f"--{flag}" in argv}
    said["dataset"] = next((word for word in argv if word in _dataset_choices(parts)), "")
    said["protocol"] = "cached" if "cached" in argv else ""
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own does not know -1e-3
    presets = {name: layer for name, layer in layers_of(program, said, method).items() if name != "typed"}
    _declare(parser, parts, presets)
    if "-h" in argv or "--help" in argv:
        parser.print_help()
        sys.exit(0)
    _refuse_unknown(argv, parser, parts)
    typed = _typed(parser, argv, parts)
    if "method" in typed:
        typed["method"] = method  # also where --supervised made it supcon
    auto_batch = typed.pop(AUTO_BATCH, False)
    layers = layers_of(program, typed, method)
    if resume is not None:
        declared = {d.name: d for part in parts.values() for d in fields_of(part)}
        resume.refuse_changes(typed, declared)
        layers = resume.layers(typed, declared) | ({} if resume.begun else layers)
    values, origins = settle(parts, layers)
    if auto_batch and not values["run"]["dry_run"]:
        raise UserError("--batch_size: got auto, expected an integer; --batch_size auto --dry_run says the largest")
    built: dict[str, Any] = {name: part(**values[name]) for name, part in parts.items()}
    if program is Pretrain:
        built["backbone"].refuse_typed(typed)
    return Resolved(program(**built), origins, tuple(argv), auto_batch, resume)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _script(program: type) -> str:
    return "main_contrastive.py" if program is Pretrain else "main_linear.py"


def _chosen_method(argv: Sequence[str], default: str) -> str:
    """The method, which decides which flags there are. `--supervised` turns SimCLR into SupCon, and nothing else."""
    early = _Parser(allow_abbrev=False, add_help=False)
    early.add_argument("--method", default=default)
    early.add_argument("--supervised", action="store_true")
    chosen, _ = early.parse_known_args(list(argv))
    if chosen.method not in METHODS:
        nearest = _nearest(chosen.method, METHODS)
        raise UserError(f"--method: got {chosen.method}, expected one of {', '.join(METHODS)}{nearest}")
    if chosen.supervised and chosen.method not in ("simclr", "supcon"):
        raise UserError(f"--supervised: got it with --method {chosen.method}, expected --method simclr or supcon")
    return "supcon" if chosen.supervised else chosen.method


def _dataset_choices(parts: Parts) -> Collection[str]:
    return next(declared.flag.choices for declared in fields_of(parts["data"]) if declared.name == "dataset")


def _declare(parser: argparse.ArgumentParser, parts: Parts, layers: Mapping[str, Preset]) -> None:
    """All flags, each with the value that it has when it is not typed, and why."""
    values, origins = settle(parts, layers)
    for name, part in parts.items():
        defaults = {field: shown(value) for field, value in values[name].items()}
        defaults |= {field: f"{defaults[field]}: {origins[field]}" for field in defaults if origins[field] != "default"}
        add_flags(parser, part, (part.__doc__ or name).split(". ")[0].rstrip("."), defaults)
    parser.add_argument_group("help").add_argument(
        "-h", "--help", action="store_true", default=argparse.SUPPRESS, help="values for the given data set and method"
    )


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
    return (f"--{declared.name}", *declared.flag.aliases, *declared.flag.consts)


def _nearest(word: str, known: Sequence[str] | set[str] | Mapping[str, object]) -> str:
    """A suggestion: the flag that `word` abbreviates, else the most similar one."""
    starts = [each for each in sorted(known) if each.startswith(word)]
    near = starts or difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def _typed(parser: argparse.ArgumentParser, argv: Sequence[str], parts: Parts) -> dict[str, Any]:
    """What was typed, as values by field name."""
    namespace, extra = parser.parse_known_intermixed_args(list(argv))
    declared = {d.name: d for part in parts.values() for d in fields_of(part)}
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
        for other in declared[name].flag.takes_back:
            typed.pop(other, None)
    return typed
