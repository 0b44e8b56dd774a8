from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from cl.config.methods.base import METHOD, TEMPERATURE
from cl.config.methods.simclr import SimCLRConfig


@dataclass(frozen=True)
class SupConConfig(SimCLRConfig):
    """SupCon: SimCLR whose positives are all images of a class (arXiv 2004.11362)."""

    implementation: ClassVar[str] = "cl.methods.supcon:SupCon"
    uses_labels: ClassVar[bool] = True
    selfcheck_cases: ClassVar[Mapping[str, Sequence[str]]] = {}

    method: Annotated[str, METHOD] = "supcon"
    temperature: Annotated[float, TEMPERATURE] = 0.1
    decoupled: ClassVar[bool] = False  # type: ignore[misc]  # no flag: DCL is defined for one positive
