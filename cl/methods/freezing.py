"""A backbone that is frozen for the first optimizer steps, and batch norms that keep their running statistics."""

from typing import Self

from cl.config.backbone import BackboneConfig
from cl.evaluation.online.metrics import MeasuredModule
from cl.nn.batch_norm import keep_statistics


class FreezingModule(MeasuredModule):
    """A module that knows its step, and by it whether its backbone is frozen. A frozen one has no gradient.

    The batch norms of a backbone, and of a teacher's, follow --renew_statistics: in evaluation mode they use their
    running statistics and leave them as they are.
    """

    def __init__(self, config: BackboneConfig, steps_per_epoch: int) -> None:
        super().__init__()
        self.frozen_backbone_steps = round(config.freeze_backbone_epochs * steps_per_epoch)
        self._renews = config.renews_statistics
        self._step_index = 0

    @property
    def step_index(self) -> int:
        """Optimizer steps before this one; schedules are functions of it."""
        return self._step_index

    @step_index.setter
    def step_index(self, steps: int) -> None:
        was_frozen = self.backbone_is_frozen
        self._step_index = steps
        if self.backbone_is_frozen != was_frozen:
            self.train(self.training)

    @property
    def backbone_is_frozen(self) -> bool:
        """In this step. A teacher's is then, too, for it follows."""
        return self.step_index < self.frozen_backbone_steps

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self._renews(self.backbone_is_frozen):
            for name, module in self.named_modules():
                if name.rpartition(".")[2] == "backbone":  # the student's, a teacher's
                    keep_statistics(module)
        return self
