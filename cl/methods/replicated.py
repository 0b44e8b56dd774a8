"""State that every process computes alike from gathered values."""

from torch import nn


class Replicated(nn.Module):
    """Buffers that are equal on all processes by construction, such as a queue.

    DDP leaves them alone. Otherwise it would send rank 0's copy at each step (134 MB for MoCo's queues), and so hide
    that a process has other values (pytorch#111138).
    """
