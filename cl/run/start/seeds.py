"""`--seeds 0 1 2`: run this command once per seed, one after the other."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cl.cli import Resolved
from cl.config.flags import as_typed
from cl.config.programs import Linear, Pretrain
from cl.config.run import LONGEST
from cl.errors import UserError, one_line
from cl.machine import launcher
from cl.machine.started_as import shown, this_command
from cl.run.start.signal_forwarding import forwarding_signals


def run_each_seed(
    resolved: Resolved[Pretrain] | Resolved[Linear], kind: str, report: Callable[[Sequence[Path]], str]
) -> int:
    """Run this program once per seed and print a report; the exit code of the first run that fails, else 0."""
    run = resolved.config.run
    seeds = run.seeds[:1] if run.dry_run else run.seeds
    if resolved.origins["seed"] == "typed":
        raise UserError(f"--seed: got {run.seed} with --seeds {as_typed(run.seeds)}, expected one of the two")
    if "RANK" in os.environ or launcher.in_slurm_step():
        raise UserError(
            f"--seeds: got {as_typed(run.seeds)} under a launcher, expected one launch per seed with --seed"
        )
    name = run.new_id(kind, resolved.config.data.dataset)
    folders = [Path(run.output_dir) / f"{name}-seed{seed}" for seed in seeds]
    excess = max(len(folder.name) for folder in folders) - LONGEST
    if run.name and excess > 0:
        raise UserError(
            f"--name: got {run.name} with --seeds {as_typed(run.seeds)}, expected at most {len(run.name) - excess} "
            "characters: data set, time and seed follow it in the name of each run folder"
        )
    for number, (seed, folder) in enumerate(zip(seeds, folders, strict=True), start=1):
        print(f"seed {seed}, run {number} of {len(seeds)}\n", flush=True)
        code = _run([*this_command(), *with_seed(resolved.argv, seed, folder.name)])
        if code:
            not_started = f"; not started: {as_typed(seeds[number:])}" if number < len(seeds) else ""
            print(f"seed {seed} ended with exit code {code}{not_started}", file=sys.stderr)
            return code
        print(flush=True)
    if not run.dry_run:
        _print_report(folders, report)
    return 0


def _print_report(folders: Sequence[Path], report: Callable[[Sequence[Path]], str]) -> None:
    """A table that cannot be made costs a warning, not the exit code of the runs."""
    try:
        print(report(folders))
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        print(f"warning: the runs were not tabulated ({reason}); {shown('report')} tries again", file=sys.stderr)


def with_seed(argv: Sequence[str], seed: int, run_id: str) -> list[str]:
    """`argv` with the flags of one run in the place of --seeds, which may end the values of another flag."""
    words = []
    in_seeds = False
    for word in argv:
        in_seeds = in_seeds and not word.startswith("-")
        if word == "--seeds" or word.startswith("--seeds="):
            words += ["--seed", str(seed), "--run_id", run_id]
            in_seeds = word == "--seeds"  # --seeds=0 takes no further words
        elif not in_seeds:
            words.append(word)
    return words


def _run(command: Sequence[str]) -> int:
    """Run the command and return its exit code; signals are forwarded, so that it saves and stops."""
    with subprocess.Popen(command, start_new_session=True) as child, forwarding_signals([child]):
        code = child.wait()
    return code if code >= 0 else 128 - code
