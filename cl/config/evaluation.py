from dataclasses import dataclass
from typing import Annotated

from cl.config.flags import Config, Flag
from cl.config.optim import BACKBONE_LR_FACTOR
from cl.errors import UserError


@dataclass(frozen=True)
class OnlineConfig(Config):
    """Monitoring of pretraining, besides the online linear head."""

    knn_every: Annotated[int, Flag("epochs between kNN evaluations; the last epoch always has one", low=1)] = 10
    knn_bank: Annotated[
        int, Flag("labelled training images in the kNN bank, a fixed stratified subset; 0 for all", low=0)
    ] = 20000
    stop_on_collapse: Annotated[
        bool, Flag("stop the run with exit code 1 when its embedding has collapsed", resume="free")
    ] = False
    max_skipped_steps: Annotated[
        int, Flag("how many non-finite steps in a row are skipped; one more stops the run", low=0, resume="free")
    ] = 10


PROTOCOLS = ("standard", "cached")


@dataclass(frozen=True)
class LinearConfig(Config):
    """Linear evaluation."""

    pretrained_feature_extractor: Annotated[
        str | None, Flag("what to evaluate: a run folder, or a weight file of this or another toolkit (required)")
    ] = None
    protocol: Annotated[
        str,
        Flag(
            "standard: augmented views, a forward pass in each step; cached: one forward pass of each image and its "
            "mirror image, then a grid of learning rates and weight decays",
            choices=PROTOCOLS,
        ),
    ] = "standard"
    label_fraction: Annotated[
        float, Flag("fraction of the training images of each class to use, drawn with --seed", above=0, high=1)
    ] = 1.0
    few_shot: Annotated[bool, Flag("also fit logistic regression on 1, 5 and 10 labels per class, ten draws each")] = (
        False
    )
    finetune: Annotated[
        bool, Flag("train the backbone too (--backbone_lr_factor), with batch norm in training mode")
    ] = False
    backbone_lr_factor: Annotated[float, BACKBONE_LR_FACTOR] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finetune and self.protocol == "cached":
            raise UserError("--finetune: got it with --protocol cached, expected --protocol standard")
        if self.finetune and self.few_shot:
            raise UserError("--few_shot: got it with --finetune, expected one of the two: it evaluates frozen features")
        if self.pretrained_feature_extractor is None:
            raise UserError(
                "--pretrained_feature_extractor: not given, expected a run folder or checkpoint: trained_models/latest"
            )
