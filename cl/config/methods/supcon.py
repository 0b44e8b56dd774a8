from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.methods.base import METHOD, TEMPERATURE
from cl.config.methods.simclr import SimCLRConfig


@dataclass(frozen=True)
class SupConConfig(SimCLRConfig):
    """SupCon: SimCLR whose positives are all images of a class (arXiv 2004.11362)."""

    implementation: ClassVar[str] = "cl.methods.supcon:SupCon"
    uses_labels: ClassVar[bool] = True

    method: Annotated[str, METHOD] = "supcon"
    temperature: Annotated[float, TEMPERATURE] = 0.1
