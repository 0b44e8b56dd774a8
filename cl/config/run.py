import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from cl.config.flags import Config, Flag, as_typed
from cl.errors import UserError

LATEST, DRY_RUN = RESERVED = ("latest", "dry_run")  # names that the program uses itself inside --output_dir
LONGEST = 100  # characters of a name or run id
_PLAIN = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")


@dataclass(frozen=True)
class DeviceConfig(Config):
    """Hardware and arithmetic."""

    accelerator: Annotated[
        str, Flag("hardware; auto uses a GPU if there is one", choices=("auto", "gpu", "cpu"), resume="free")
    ] = "auto"
    gpus: Annotated[
        tuple[int, ...] | None,
        Flag("indices of the GPUs to use: 0 1", low=0, overrides=("devices",), resume="free"),
    ] = None
    devices: Annotated[
        int | None,
        Flag("number of GPUs, or of processes on a CPU", low=1, high=1024, overrides=("gpus",), resume="free"),
    ] = None
    num_nodes: Annotated[int, Flag("number of machines", low=1, resume="free")] = 1
    precision: Annotated[
        str,
        Flag(
            "arithmetic; auto is bf16-mixed on a GPU that has it, else 32; 64 is for checks on a CPU",
            choices=("auto", "32", "16-mixed", "bf16-mixed", "64"),
        ),
    ] = "auto"
    compile: Annotated[bool, Flag("compile the backbone (torch.compile)")] = False
    deterministic: Annotated[bool, Flag("only deterministic kernels; slower on GPUs")] = False
    sync_batchnorm: Annotated[bool, Flag("compute batch norm statistics over all processes")] = True

    @property
    def scales_gradients(self) -> bool:
        """Whether a GradScaler keeps gradients from underflowing in half precision."""
        return self.precision == "16-mixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accelerator == "cpu" and self.gpus is not None:
            shown = " ".join(map(str, self.gpus))
            raise UserError(
                f"--gpus: got {shown} with --accelerator cpu, expected one of the two; for the CPU: --devices 1"
            )


@dataclass(frozen=True)
class PretrainDeviceConfig(DeviceConfig):
    """Hardware and arithmetic."""

    graphs: Annotated[
        str,
        Flag(
            "replay the networks of a step as CUDA graphs instead of launching their kernels one by one; auto does so "
            "on a GPU where it can",
            choices=("auto", "on", "off"),
            resume="free",
        ),
    ] = "auto"


@dataclass(frozen=True)
class RunConfig(Config):
    """Length, name and folder of the run."""

    epochs: Annotated[int, Flag("passes over the training images", low=1, high=2**31 - 1)] = 100
    max_steps: Annotated[
        int | None, Flag("stop after this many optimizer steps, if that is earlier", low=1, high=2**31 - 1)
    ] = None
    seed: Annotated[int, Flag("seed of everything that is random", low=0, high=2**31 - 1)] = 0
    seeds: Annotated[
        tuple[int, ...], Flag("run once with each of these seeds, one after the other", low=0, high=2**31 - 1)
    ] = ()
    name: Annotated[str | None, Flag("first part of the run id, and the run's name in wandb", resume="free")] = None
    run_id: Annotated[str | None, Flag("name of the run folder; by default name, data set and time", resume="free")] = (
        None
    )
    output_dir: Annotated[str, Flag("parent folder of the run folders", resume="free")] = "trained_models"
    resume_training_from: Annotated[
        str | None,
        Flag("resume a run: its folder, a checkpoint in it, or auto for the run of --run_id", resume="free"),
    ] = None
    checkpoint_every_n_steps: Annotated[
        int | None, Flag("also save within an epoch, each time after this many optimizer steps", low=1, resume="free")
    ] = None
    project: Annotated[str | None, Flag("wandb project; turns wandb on", resume="free")] = None
    wandb: Annotated[bool, Flag("log to wandb as well", resume="free")] = False
    tensorboard: Annotated[bool, Flag("log to TensorBoard as well, with the pictures", resume="free")] = False
    verbose: Annotated[bool, Flag("show every flag's value and origin at the start", resume="free")] = False
    dry_run: Annotated[
        bool,
        Flag(
            "train nothing; show the plan, the cost of a step, and the views; with --batch_size auto, the largest batch"
        ),
    ] = False
    fast_dev_run: Annotated[bool, Flag("a complete run of one training and one validation batch")] = False

    def new_id(self, kind: str, dataset: str) -> str:
        """A run id of name (or `kind`), data set and time."""
        return f"{self.name or kind}-{dataset}-{datetime.now():%Y%m%d-%H%M%S}"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("name", self.name), ("run_id", self.run_id)):
            if value is not None and (not _PLAIN.fullmatch(value) or value in RESERVED):
                raise UserError(
                    f"--{name}: got {value}, expected at most {LONGEST} letters, digits and . _ -, a letter or digit "
                    f"first, and not {' or '.join(RESERVED)}"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"--seeds: got {as_typed(self.seeds)}, expected each seed once")
        for name, value in (("run_id", self.run_id), ("resume_training_from", self.resume_training_from)):
            if self.seeds and value is not None:
                raise UserError(
                    f"--{name}: got {value} with --seeds, expected one of the two: each seed has its own run"
                )
