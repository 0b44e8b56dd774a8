"""A teacher (momentum encoder): a moving average of the student, which gives it targets."""

import copy

import torch
from torch import Tensor, nn

STOCHASTIC = ("p", "drop_prob")  # attributes of dropout layers, and of timm's drop path


class Teacher(nn.Module):
    """Copies of the student's backbone, projector and, if any, prototypes, made after its initial weights are loaded.

    Parameters follow the student's. Batch norms do not: they run in training mode on the teacher's own batches, with
    running statistics of their own (BYOL, MoCo, DINO). Targets are deterministic: no dropout, no drop path.
    """

    prototypes: nn.Module

    def __init__(self, backbone: nn.Module, projector: nn.Module, prototypes: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.projector = copy.deepcopy(projector)
        if prototypes is not None:
            self.prototypes = copy.deepcopy(prototypes)
        self.requires_grad_(False)
        for module in self.modules():
            for attribute in STOCHASTIC:
                if isinstance(vars(module).get(attribute), float):
                    setattr(module, attribute, 0.0)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float, taken: Tensor) -> None:
        """Move each parameter to momentum x teacher + (1 - momentum) x student; not at all where `taken` is 0.

        `student` has modules of the same names.
        """
        ours: list[Tensor] = []
        moves: list[Tensor] = []
        for name, parameter in self.named_parameters():
            ours.append(parameter)
            moves.append(student.get_parameter(name))
        moves = list(torch._foreach_sub(moves, ours))
        torch._foreach_mul_(moves, ((1.0 - momentum) * taken).to(ours[0]))
        torch._foreach_add_(ours, moves)
