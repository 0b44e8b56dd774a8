"""torchvision's ResNets without the classifier, with an optional stem for small images and any width."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cl.backbones.backbone import Backbone
from cl.config.backbone import BackboneConfig
from cl.config.views import Size

LAYERS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


class ResNetBackbone(ResNet, Backbone):
    """Images [B, C, H, W] -> features [B, num_features]. Weights have torchvision's names and initialisation."""

    def __init__(self, config: BackboneConfig, crop_size: Size, channels: int) -> None:
        block, layers = LAYERS[config.encoder]
        self.stage_width = config.width
        super().__init__(block, layers, zero_init_residual=config.zero_init_residual)
        self.num_features = 8 * config.width * block.expansion
        self.fc = nn.Identity()
        small = config.small_stem(crop_size)
        if small:
            self.maxpool = nn.Identity()
        if small or config.width != 64 or channels != 3:
            # Padding 1 as in SimCLR, SimSiam and SupCon on CIFAR; some toolkits pad by 2 and compute a quarter more.
            kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
            self.conv1 = nn.Conv2d(channels, config.width, kernel, stride, padding, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.bn1 = nn.BatchNorm2d(config.width)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        """A torchvision stage at this network's width (torchvision's stages have 64, 128, 256 and 512 planes)."""
        if planes == 64:
            self.inplanes = self.stage_width
        return super()._make_layer(block, planes * self.stage_width // 64, blocks, stride=stride, dilate=dilate)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)
