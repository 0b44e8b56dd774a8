import torch
from torch import Tensor

from cl.batch import Batch
from cl.methods.simclr import SimCLR


class SupCon(SimCLR):
    """SimCLR whose positives are all views of a class (arXiv 2004.11362); for unlabelled images, those of the image."""

    def ids(self, batch: Batch) -> Tensor:
        return torch.where(batch.target >= 0, batch.target, -2 - batch.index)
