"""The runs of a folder: their flags, their results, and what the recipe table says about them."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl.config.flags import as_typed
from cl.config.resume import EXPORT, LAST, PREVIOUS, SUMMARY
from cl.errors import UserError, one_line
from cl.report_page.own_files import own_text

LOCATION_FLAGS = {  # flags that only locate or name a run; all others define it
    "seed", "seeds", "name", "run_id", "output_dir", "project", "wandb", "tensorboard", "verbose",
    "pretrained_feature_extractor",
}  # fmt: skip
FILES_OF_A_RUN = (LAST, PREVIOUS, EXPORT)  # that can be evaluated
Flags = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder: its flags by name, and its metrics, which are empty unless it has ended."""

    folder: Path
    flags: Flags
    metrics: Mapping[str, float]
    ended: float  # time of its end; 0 if it has not ended
    evaluates: str  # path of the run folder or other file whose backbone it evaluates; "" for a pretraining
    protocol: tuple[str, ...]  # typed flags of the evaluation protocol

    @classmethod
    def read(cls, folder: Path) -> "Run":
        contents = json.loads(own_text(folder, "config.json"))
        config = contents["config"]
        flags = {name: entry["value"] for part in config.values() for name, entry in part.items()}
        metrics = {}
        ended = 0.0
        summary = folder / SUMMARY
        if summary.exists():
            metrics = {name: float(value) for name, value in json.loads(own_text(folder, SUMMARY)).items()}
            ended = summary.stat().st_mtime
        evaluates = ""
        protocol: list[str] = []
        if "linear" in config:
            path = Path(contents["pretrained"])
            evaluates = str(path.parent if path.name in FILES_OF_A_RUN else path)
            typed = [name for name, entry in config["linear"].items() if entry["origin"] == "typed"]
            protocol = [name for name in typed if name not in LOCATION_FLAGS]
        return cls(folder, flags, metrics, ended, evaluates=evaluates, protocol=tuple(protocol))

    @property
    def kind(self) -> str:
        """A key that runs share if they differ only in their seed."""
        return json.dumps({name: value for name, value in self.flags.items() if name not in LOCATION_FLAGS})

    @property
    def facts(self) -> dict[str, str]:
        """The columns of the recipe table."""
        if not self.evaluates:
            return {name: fact(self.flags) for name, fact in FACTS.items()}
        name = Path(self.evaluates).name
        facts = {"method": f"of {name}", "backbone": self.flags["encoder"], "data": self.flags["dataset"]}
        return {name: facts.get(name, "") for name in FACTS}


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders`, each a run folder or a folder of run folders; others are reported on stderr."""
    runs = []
    for folder in _run_folders(folders):
        try:
            run = Run.read(folder)
            if run.facts and not run.flags["dry_run"]:  # `facts` raises if another version lacks one of its flags
                runs.append(run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"skipped {folder}: not a run folder ({type(error).__name__}: {error})"
            print(one_line(reason), file=sys.stderr)
    return runs


def _run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"folders: got {folder}, expected a run folder or a folder of runs: trained_models")
        if (folder / "config.json").exists():
            yield folder
        else:
            yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def value_as_typed(value: Any) -> str:
    return as_typed(tuple(value) if isinstance(value, list) else value)


def _backbone(flags: Flags) -> str:
    width = f", width {flags['width']}" if flags["width"] != 64 else ""
    return flags["encoder"] + width


def _batch(flags: Flags) -> str:
    """Images per optimizer step."""
    processes = len(flags["gpus"] or ()) or flags["devices"] or 1
    return str(flags["batch_size"] * flags["accumulate"] * processes * flags["num_nodes"])


HEADS = ("proj_output_dim", "pred_hidden_dim")
FACTS: dict[str, Callable[[Flags], str]] = {
    "method": lambda flags: flags["method"],
    "backbone": _backbone,
    "data": lambda flags: flags["dataset"],
    "epochs": lambda flags: f"{flags['max_steps']} steps" if flags["max_steps"] else str(flags["epochs"]),
    "batch": _batch,
    "T": lambda flags: value_as_typed(flags.get("temperature", "")),
    "head": lambda flags: "/".join(str(flags[name]) for name in HEADS if name in flags),
    "multi-crop": lambda flags: "yes" if flags["multicrop"] else "",
    "loader": lambda flags: flags["loader"],
}
