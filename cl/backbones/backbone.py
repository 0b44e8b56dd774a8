from torch import nn


class Backbone(nn.Module):
    """Images [B, C, H, W] -> features [B, num_features]; weights are named as in torchvision or timm."""

    num_features: int
