from torch import nn


class Backbone(nn.Module):
    """Images [B, C, H, W] -> features [B, num_features]; its weights have the names of torchvision or timm."""

    num_features: int
