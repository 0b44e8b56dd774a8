"""The heads on top of a backbone. A linear layer before a batch norm has no bias: the norm would remove it."""

from itertools import pairwise

from torch import nn


def simclr_projector(features: int, hidden: int, outputs: int, batch_norm: bool = False) -> nn.Sequential:
    """Linear, ReLU, linear (arXiv 2002.05709, section 2.1); the reference code adds batch norm to both layers."""
    if not batch_norm:
        return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))
    last = nn.BatchNorm1d(outputs)
    last.bias.requires_grad_(False)  # the reference code's last norm only scales
    return nn.Sequential(*_layer(features, hidden), nn.Linear(hidden, outputs, bias=False), last)


def barlow_twins_projector(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers, the first two with batch norm and ReLU (arXiv 2103.03230, section 2.2)."""
    return nn.Sequential(*_layer(features, hidden), *_layer(hidden, hidden), nn.Linear(hidden, outputs, bias=False))


def simsiam_projector(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers, each with batch norm, the last one not affine (arXiv 2011.10566 and its code)."""
    last = nn.Linear(hidden, outputs, bias=False), nn.BatchNorm1d(outputs, affine=False)
    return nn.Sequential(*_layer(features, hidden), *_layer(hidden, hidden), *last)


def simsiam_predictor(dim: int, hidden: int) -> nn.Sequential:
    """A bottleneck of two layers whose output has neither batch norm nor ReLU (arXiv 2011.10566, section 3)."""
    return nn.Sequential(*_layer(dim, hidden), nn.Linear(hidden, dim))


def byol_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """BYOL's projector and predictor: two layers, batch norm in the hidden one only (arXiv 2006.07733, section 3.2)."""
    return nn.Sequential(*_layer(inputs, hidden), nn.Linear(hidden, outputs, bias=False))


def moco_v3_head(inputs: int, hidden: int, outputs: int, *, layers: int, last_batch_norm: bool = True) -> nn.Sequential:
    """MoCo v3's projector and predictor: linear layers with batch norm, the last one not affine (2104.02057, code)."""
    widths = [inputs, *[hidden] * (layers - 1)]
    body = [module for pair in pairwise(widths) for module in _layer(*pair)]
    last = [nn.BatchNorm1d(outputs, affine=False)] if last_batch_norm else []
    return nn.Sequential(*body, nn.Linear(hidden, outputs, bias=False), *last)


def lejepa_projector(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """Barlow Twins' layers, and a bias at the end: the mean of the projections matters (arXiv 2511.08544, code)."""
    return nn.Sequential(*_layer(features, hidden), *_layer(hidden, hidden), nn.Linear(hidden, outputs))


def nnclr_projector(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers, each with batch norm (arXiv 2104.14548, section 4.1)."""
    last = nn.BatchNorm1d(outputs)
    last.bias.requires_grad_(False)  # its gradient is 0: the predictor's batch norm removes any shift
    return nn.Sequential(
        *_layer(features, hidden), *_layer(hidden, hidden), nn.Linear(hidden, outputs, bias=False), last
    )


def distill_head(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer with batch norm from a student's features to a prediction of its teacher's."""
    return nn.Sequential(*_layer(features, hidden), nn.Linear(hidden, outputs))


def swav_projector(features: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer with batch norm, and a bias at the end (arXiv 2006.09882, code)."""
    return nn.Sequential(*_layer(features, hidden), nn.Linear(hidden, outputs))


def dino_projector(features: int, hidden: int, outputs: int, *, batch_norm: bool) -> nn.Sequential:
    """Three linear layers with GELU to a bottleneck (arXiv 2104.14294, appendix C), initialised as in its code.

    `batch_norm` is that of the hidden layers, as in the code. After the bottleneck, too, learning prototypes collapse.
    """

    def hidden_layer(inputs: int) -> list[nn.Module]:
        norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
        return [nn.Linear(inputs, hidden, bias=not batch_norm), *norm, nn.GELU()]

    projector = nn.Sequential(*hidden_layer(features), *hidden_layer(hidden), nn.Linear(hidden, outputs))
    for module in projector:
        if isinstance(module, nn.Linear):
            # The code truncates at +-2, 100 deviations away. trunc_normal_ draws the same in torch 2.14, not in 2.11.
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return projector


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)


def linear_head(features: int, classes: int) -> nn.Linear:
    """A linear classifier, initialised with weights N(0, 0.01) and bias 0 (MoCo, SimSiam, Barlow Twins)."""
    head = nn.Linear(features, classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head
