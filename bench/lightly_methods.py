"""Ten methods made of lightly's heads and losses, with the sizes and temperatures of its CIFAR-10 benchmark.

What that benchmark does not have (VICReg, LeJEPA) has lightly's defaults, with 2048 units where those have 8192.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from lightly.loss import (
    BarlowTwinsLoss,
    DINOLoss,
    LeJEPALoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    VICRegLoss,
)
from lightly.loss.lejepa_loss import lejepa_invariance_loss
from lightly.models.modules import (
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    DINOProjectionHead,
    LeJEPAProjectionHead,
    MoCoProjectionHead,
    NNCLRPredictionHead,
    NNCLRProjectionHead,
    NNMemoryBankModule,
    SimCLRProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.modules.heads import VICRegProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

# Its benchmark has 0.99, which after the 195 steps of the comparison would keep 14 % of the random teacher.
TEACHER_MOMENTUM = 0.95
QUEUE = 4096


class Method(nn.Module):
    """A backbone and a projection head."""

    def __init__(self, backbone: nn.Module, projection_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = projection_head

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        """Two views [B, C, H, W] -> the loss."""
        raise NotImplementedError

    def project(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))

    def after_step(self) -> None:
        """What follows the optimizer."""


class Joint(Method):
    """A loss of both projections."""

    criterion: nn.Module

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        return self.criterion(self.project(x0), self.project(x1))


class SimCLR(Joint):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, SimCLRProjectionHead(features, 512, 128))
        self.criterion = NTXentLoss()


class BarlowTwins(Joint):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, BarlowTwinsProjectionHead(features, 2048, 2048))
        self.criterion = BarlowTwinsLoss()


class VICReg(Joint):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, VICRegProjectionHead(features, 2048, 2048))
        self.criterion = VICRegLoss()


class LeJEPA(Method):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, LeJEPAProjectionHead(features))
        self.criterion = LeJEPALoss()

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        z = torch.stack([self.project(x0), self.project(x1)])
        share = self.criterion.lambda_param  # its forward refuses views without small ones among them
        return share * self.criterion.sigreg(z) + (1 - share) * lejepa_invariance_loss(all_proj=z, global_proj=z)


class SimSiam(Method):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, SimSiamProjectionHead(features, 2048, 2048))
        self.prediction_head = SimSiamPredictionHead(2048, 512, 2048)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        z0, z1 = self.project(x0), self.project(x1)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        return 0.5 * (self.criterion(z0.detach(), p1) + self.criterion(z1.detach(), p0))


class Taught(Method):
    """A method with a moving average of backbone and projection head."""

    def __init__(self, backbone: nn.Module, head: Callable[[], nn.Module]) -> None:
        super().__init__(backbone, head())
        self.teacher = nn.Sequential(deepcopy(backbone), head())  # deepcopy refuses weight norm
        self.teacher[1].load_state_dict(self.projection_head.state_dict())
        deactivate_requires_grad(self.teacher)

    def targets(self, views: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [self.teacher(x) for x in views]

    def after_step(self) -> None:
        for student, teacher in zip((self.backbone, self.projection_head), self.teacher, strict=True):
            update_momentum(student, teacher, TEACHER_MOMENTUM)


class BYOL(Taught):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, lambda: BYOLProjectionHead(features, 1024, 256))
        self.prediction_head = BYOLPredictionHead(256, 1024, 256)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        p0, p1 = (self.prediction_head(self.project(x)) for x in (x0, x1))
        z0, z1 = self.targets((x0, x1))
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


class MoCo(Taught):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, lambda: MoCoProjectionHead(features, 512, 128, batch_norm=True))
        self.criterion = NTXentLoss(temperature=0.1, memory_bank_size=(QUEUE, 128))

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        queries = self.project(x0), self.project(x1)
        keys = self.targets((x1, x0))
        return 0.5 * (self.criterion(queries[0], keys[0]) + self.criterion(queries[1], keys[1]))


class NNCLR(Method):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, NNCLRProjectionHead(features, 2048, 256))
        self.prediction_head = NNCLRPredictionHead(256, 4096, 256)
        self.memory_bank = NNMemoryBankModule(size=(QUEUE, 256))
        self.criterion = NTXentLoss()

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        z0, z1 = self.project(x0), self.project(x1)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        nearest0 = self.memory_bank(z0.detach(), update=False)
        nearest1 = self.memory_bank(z1.detach(), update=True)
        return 0.5 * (self.criterion(nearest0, p1) + self.criterion(nearest1, p0))


class SwAV(Method):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, SwaVProjectionHead(features, 512, 128))
        self.prototypes = SwaVPrototypes(128, 512)
        self.criterion = SwaVLoss()

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        self.prototypes.normalize()
        scores = [self.prototypes(nn.functional.normalize(self.project(x), dim=1)) for x in (x0, x1)]
        return self.criterion(scores, [])[0]


class DINO(Taught):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__(backbone, lambda: DINOProjectionHead(features, 2048, 256, 2048, batch_norm=True))
        self.criterion = DINOLoss(output_dim=2048)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        return self.criterion(self.targets((x0, x1)), [self.project(x0), self.project(x1)])


METHODS = {
    "simclr": SimCLR,
    "barlow_twins": BarlowTwins,
    "simsiam": SimSiam,
    "byol": BYOL,
    "moco_v2": MoCo,
    "swav": SwAV,
    "dino": DINO,
    "nnclr": NNCLR,
    "vicreg": VICReg,
    "lejepa": LeJEPA,
}
