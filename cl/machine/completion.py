"""--print_completion bash: what makes a shell complete the flags and their values. It needs shtab, an extra."""

import argparse
import importlib
from collections.abc import Collection, Mapping, Sequence

from cl.errors import UserError
from cl.machine.extras import how_to_install

COMPLETION = "--print_completion"
SHELLS = ("bash", "zsh", "tcsh")
PATHS = ("data_folder", "train_dir", "val_dir", "output_dir", "cache_dir", "init_from", "pretrained_feature_extractor")


def completion(parser: argparse.ArgumentParser, choices: Mapping[str, Collection[str]], words: Sequence[str]) -> str:
    """What makes the shell that the command line names complete a program; `choices` are those of its flags."""
    others = [part for word in words for part in word.split("=") if part != COMPLETION]
    shell = " ".join(others)
    if shell not in SHELLS:
        raise UserError(f"{COMPLETION}: got {shell or 'nothing'}, expected {' or '.join(SHELLS)} and no other word")
    try:
        shtab = importlib.import_module("shtab")
    except ImportError:
        raise UserError(
            f"{COMPLETION}: got {shell}, but shtab is not installed; expected {how_to_install('completion')}"
        ) from None
    for action in parser._actions:
        if choices.get(action.dest) and action.nargs != 0:
            action.choices = list(choices[action.dest])
        if action.dest in PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell=shell))
