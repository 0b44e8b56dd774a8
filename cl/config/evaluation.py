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
    stop_on_collapse: Annotated[
        bool, Flag("end a run, with exit code 1, when its embedding has collapsed", resume="free")
    ] = False
    max_skipped_steps: Annotated[
        int, Flag("steps in a row that may be left out because they are not finite", low=0, resume="free")
    ] = 10


PROTOCOLS = ("standard", "cached")


@dataclass(frozen=True)
class LinearConfig(Config):
    """Which backbone is evaluated, and how."""

    pretrained_feature_extractor: Annotated[
        str | None, Flag("run folder, or file of weights, ours or others', to evaluate (required)")
    ] = None
    protocol: Annotated[
        str,
        Flag(
            "standard: augmented views, a forward pass for each step; cached: each image and its mirror once, then "
            "a grid of rates and decays",
            choices=PROTOCOLS,
        ),
    ] = "standard"
    label_fraction: Annotated[
        float, Flag("share of the training images of each class that is used, drawn by --seed", above=0, high=1)
    ] = 1.0
    few_shot: Annotated[bool, Flag("also logistic regression on 1, 5 and 10 labels a class, ten draws each")] = False
    finetune: Annotated[bool, Flag("train the backbone too, with batch norm in training mode")] = False
    backbone_lr_factor: Annotated[float, Flag("the backbone's rate under --finetune, in units of --lr", above=0)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finetune and self.protocol == "cached":
            raise UserError("--finetune: got it with --protocol cached, expected --protocol standard")
        if self.finetune and self.few_shot:
            raise UserError("--few_shot: got it with --finetune, expected one of the two: it is about frozen features")
        if self.pretrained_feature_extractor is None:
            raise UserError(
                "--pretrained_feature_extractor: not given, expected a run folder or checkpoint: trained_models/latest"
            )
