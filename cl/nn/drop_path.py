"""Drop path (stochastic depth, arXiv 1603.09382) in which an image's draws do not depend on the number of processes."""

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from cl.distributed import rank, world_size


class GlobalDropPath(nn.Module):
    """Drop the branch of some images, as timm's DropPath, with draws for the images of all processes.

    The generators of all processes must be in the same state: each draws for the global batch and takes its own part.
    """

    def __init__(self, drop_prob: float, scale_by_keep: bool, images: int) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep
        self.images = images  # of this process in a batch

    def forward(self, branch: Tensor) -> Tensor:
        """[V * B, ...], the rows of a view together -> the same with some rows 0, the others divided by their share."""
        if not self.training:
            return branch
        keep = 1 - self.drop_prob
        images = self.images if world_size() > 1 else len(branch)
        kept = branch.new_empty(len(branch) // images, world_size(), images).bernoulli_(keep)
        own = kept[:, rank()].reshape(-1, *[1] * (branch.ndim - 1))
        return branch * (own / keep if self.scale_by_keep and keep else own)


def with_global_drop_path(network: nn.Module, images: int) -> None:
    """Replace timm's DropPath everywhere in `network`, of which each process sees `images` images in a batch."""
    for name, child in network.named_children():
        own = vars(child)
        if own.get("drop_prob") and "scale_by_keep" in own:
            replaced = GlobalDropPath(own["drop_prob"], own["scale_by_keep"], images)
            network.add_module(name, replaced.train(child.training))
        else:
            with_global_drop_path(child, images)


def has_dropout(network: nn.Module) -> bool:
    """Whether the network has dropout: elements are dropped by draws of each process's own."""
    return any(_drops(module) for module in network.modules())


def _drops(module: nn.Module) -> bool:
    if "scale_by_keep" in vars(module):  # timm's drop path, before or after it was replaced
        return False
    return bool(vars(module).get("drop_prob") or (isinstance(module, _DropoutNd) and module.p))
