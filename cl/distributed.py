"""Who this process is among W. The only module that may import torch.distributed."""

import torch.distributed as dist


def world_size() -> int:
    """W, 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among W, 0 without torch.distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
