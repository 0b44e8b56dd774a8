"""The small networks on top of a backbone."""

from torch import nn


def projection_head(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """SimCLR's non-linear projection: linear, ReLU, linear."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))


def linear_head(features: int, classes: int) -> nn.Linear:
    """A linear classifier that starts at weights N(0, 0.01) and bias 0 (MoCo, SimSiam, Barlow Twins)."""
    head = nn.Linear(features, classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head
