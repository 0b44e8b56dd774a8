"""Views in a handful of Triton kernels: cut out of images on the device, colour, blur, normalise."""

from functools import cache
from importlib.util import find_spec

import torch


@cache
def obstacle(device: torch.device) -> str:
    """Why the kernels cannot run on `device`; "" if they can."""
    if device.type != "cuda":
        return "the kernels need a GPU"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
        return "Triton needs a GPU of compute capability 7.0"
    try:
        with torch.cuda.device(device):
            attempt(device)
    except Exception as error:  # no compiler on this machine, a driver that is too old
        return f"Triton fails: {' '.join(str(error).split())[:100]}"
    return ""


def attempt(device: torch.device) -> None:
    """Run the kernels once, on an image of zeros."""
    from cl.data.kernels.augment import augment
    from cl.data.kernels.numbers import ColourNumbers

    pixels = torch.zeros(1, 1, 16, 16, dtype=torch.uint8, device=device)
    integers = torch.zeros(1, 8, dtype=torch.int32, device=device)
    numbers = ColourNumbers(integers, torch.ones(1, 5, device=device), integers[:, 0])
    augment(pixels, numbers, torch.ones(2, 1, device=device), kernel=3, dtype=torch.float32)
    torch.cuda.synchronize(device)
