"""What every method declares: its name, its flags, its presets, and where its implementation lives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.flags import Config, Flag
from cl.config.presets import Preset
from cl.errors import UserError

METHODS: dict[str, type["MethodConfig"]] = {}  # filled by the package's __init__
MAX_UNITS = 2**20  # of a layer: a typo must not allocate all memory
METHOD = Flag("what is learned from the views", choices=METHODS, shorthands={"--supervised": "supcon"})
PROJ_OUTPUT_DIM = Flag("outputs of the projector", aliases=("--encoding_dim",), low=1, high=MAX_UNITS)
TEMPERATURE = Flag("temperature of the softmax over similarities", above=0)


@dataclass(frozen=True)
class MethodConfig(Config):
    """What every method has: its name, and a projector on top of the backbone."""

    implementation: ClassVar[str]  # "module:Class", imported when the method is built
    uses_labels: ClassVar[bool] = False
    compares_images: ClassVar[bool] = True  # False: an image's loss does not depend on the others of its batch
    supervised: ClassVar[str | None] = None  # the method that --supervised makes of this one
    preset: ClassVar[Preset] = {}  # on every data set
    dataset_presets: ClassVar[Mapping[str, Preset]] = {}  # on one data set; these win over `preset`
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {}  # further cases of cl.selfcheck: name -> flags

    method: Annotated[str, METHOD] = ""

    proj_hidden_dim: Annotated[
        int, Flag("hidden units of the projector", aliases=("--hidden_mlp",), low=1, high=MAX_UNITS)
    ] = 2048
    proj_output_dim: Annotated[int, PROJ_OUTPUT_DIM] = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if METHODS[self.method] is not type(self):
            raise UserError(
                f"--method: got {self.method} with the flags of {type(self).__name__}, expected its own name"
            )

    def banner_rows(self, other_views: int) -> dict[str, str]:
        """Rows of the banner that only this method has; a loss sees `other_views` views of other images."""
        return {}
