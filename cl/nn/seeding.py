"""Seed the generators that a network draws from."""

import torch


def seed_network(device: torch.device, seed: int) -> None:
    """What torch.manual_seed does, for the CPU and `device` alone: it takes 0.8 ms to look at every backend."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
