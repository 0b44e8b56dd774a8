from dataclasses import dataclass
from typing import Annotated

from cl.config.flags import Config, Flag
from cl.errors import UserError


@dataclass(frozen=True)
class OnlineConfig(Config):
    """What pretraining measures of itself, on top of the online linear head."""

    knn_every: Annotated[int, Flag("epochs between kNN evaluations; the last epoch always has one", low=1)] = 10
    knn_bank: Annotated[
        int, Flag("labelled training images in the kNN bank, a fixed stratified choice; 0 for all", low=0)
    ] = 20000
    stop_on_collapse: Annotated[bool, Flag("end a run, with exit code 1, when its embedding has collapsed")] = False


@dataclass(frozen=True)
class LinearConfig(Config):
    """Which backbone linear evaluation freezes."""

    pretrained_feature_extractor: Annotated[
        str | None, Flag("run folder, or file of weights, ours or others', to evaluate (required)")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained_feature_extractor is None:
            raise UserError(
                "--pretrained_feature_extractor: not given, expected a run folder or checkpoint: trained_models/latest"
            )
