"""The declaration of a method: name, flags, presets, and where its implementation is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from cl.config.flags import Config, Flag
from cl.config.presets import Preset
from cl.errors import UserError

METHODS: dict[str, type["MethodConfig"]] = {}  # filled by the package's __init__
MAX_UNITS = 2**20  # per layer: a typo must not allocate all memory
METHOD = Flag("pretraining method", choices=METHODS, shorthands={"--supervised": "supcon"})
PROJ_HIDDEN_DIM = Flag("hidden units of the projector", aliases=("--hidden_mlp",), low=1, high=MAX_UNITS)
PROJ_OUTPUT_DIM = Flag("outputs of the projector", aliases=("--encoding_dim",), low=1, high=MAX_UNITS)
PRED_HIDDEN_DIM = Flag("hidden units of the predictor", low=1, high=MAX_UNITS)
TEACHER_MOMENTUM = Flag("momentum of the teacher at the first step: how much of it stays", low=0, high=1)
TEACHER_MOMENTUM_END = Flag("momentum of the teacher at the last step; half a cosine in between", low=0, high=1)
TEMPERATURE = Flag("temperature of the softmax over similarities", above=0)


class CollapseLevel(NamedTuple):
    """A column of metrics.csv and its value if all projections are equal, at least; a healthy run is well below."""

    column: str
    value: float


@dataclass(frozen=True)
class MethodConfig(Config):
    """The method: its name, and a projector on top of the backbone."""

    implementation: ClassVar[str]  # "module:Class", imported when the method is built
    uses_labels: ClassVar[bool] = False
    compares_images: ClassVar[bool] = True  # False: an image's loss does not depend on the other images of its batch
    supervised: ClassVar[str | None] = None  # the method that --supervised turns this one into
    least_views: ClassVar[int] = 2  # full-size views of an image
    evaluated: ClassVar[str] = "backbone"  # the module that is evaluated and exported: the student or a teacher's
    preset: ClassVar[Preset] = {}  # on every data set
    dataset_presets: ClassVar[Mapping[str, Preset]] = {}  # on one data set; these win over `preset`
    transformer_preset: ClassVar[Preset] = {}  # of vision transformers; wins over those of data sets
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {}  # additional cases of cl.selfcheck: name -> flags

    method: Annotated[str, METHOD] = ""

    proj_hidden_dim: Annotated[int, PROJ_HIDDEN_DIM] = 2048
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if METHODS[self.method] is not type(self):
            raise UserError(
                f"--method: got {self.method} with the flags of {type(self).__name__}, expected its own name"
            )

    def banner_rows(self, other_views: int) -> dict[str, str]:
        """Additional rows of the banner; `other_views` is how many views of other images a loss sees."""
        return {}

    def collapse_level(self, images: int) -> CollapseLevel | None:
        """What a loss of `images` images shows after a collapse; None if it shows nothing."""
        return None

    def check_batch(self, global_batch: int) -> None:
        """Refuse a batch, in images of an optimizer step, that the method cannot train on."""

    def warnings(self, images: int, global_batch: int, classes: int = 0) -> Iterator[str]:
        """What the banner warns of, given the numbers of training images and of classes (0: unknown)."""
        yield from ()


def check_momentum(start: float, end: float) -> None:
    """Refuse a teacher that becomes faster during the run."""
    if end < start:
        raise UserError(f"--teacher_momentum_end: got {end:g}, expected at least the --teacher_momentum of {start:g}")
