"""What is not a finite number, in weights and in features."""

from collections.abc import Mapping

import torch
from torch import Tensor


def non_finite(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What is wrong with each tensor that has NaN, infinite or, as a variance, negative values; integers have none."""
    problems = {name: _problem(name, tensor) for name, tensor in tensors.items() if tensor.is_floating_point()}
    return {name: problem for name, problem in problems.items() if problem}


def _problem(name: str, tensor: Tensor) -> str:
    if name.endswith("running_var") and (tensor < 0).any():
        return "a negative variance"
    if tensor.isfinite().all():
        return ""
    kinds = {"NaN": tensor.isnan(), "infinite": tensor.isinf()}
    counts = " and ".join(f"{int(found.sum())} {kind}" for kind, found in kinds.items() if found.any())
    return f"{counts} of {tensor.numel()} values"


def describe_non_finite(problems: Mapping[str, str]) -> str:
    """The first tensor with its problem, and how many more there are."""
    name, problem = next(iter(problems.items()))
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{name} ({problem}){more}"


def measurable(features: Tensor) -> Tensor:
    """[..., F] -> [...] bool: whether a row has a finite length, without which it has no distance or direction.

    So rows whose values are finite, but whose squares overflow, count as not finite.
    """
    return torch.linalg.vector_norm(features.float(), dim=-1).square().isfinite()
