"""A method for tests of the base: an evaluated teacher, and a small queue of its keys (MoCo v2 in one direction)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.batch import Batch
from cl.config.methods import METHODS
from cl.config.methods.base import METHOD, MethodConfig
from cl.config.programs import Pretrain
from cl.distributed import gather
from cl.methods.base import ContrastiveModule, StepOutput
from cl.methods.replicated import Replicated
from cl.methods.teacher import Teacher
from cl.optim.schedules import Budget

NAME = "toy_queue"
SIZE = 40  # rows of the queue, more than a global batch and no multiple of it
MOMENTUM = 0.9


@dataclass(frozen=True)
class ToyConfig(MethodConfig):
    """A teacher and a queue."""

    implementation: ClassVar[str] = "tests.toy_queue:ToyQueue"
    compares_images: ClassVar[bool] = False
    evaluated: ClassVar[str] = "teacher.backbone"

    method: Annotated[str, METHOD] = NAME


@contextmanager
def registered() -> Iterator[None]:
    METHODS[NAME] = ToyConfig
    try:
        yield
    finally:
        del METHODS[NAME]


class Queue(Replicated):
    """Unit rows [SIZE, D] in the order of global batches; the newest overwrite the oldest."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        rows = torch.randn(SIZE, dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("rows", F.normalize(rows, dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self._pending: list[Tensor] = []  # of the micro-batches of this step

    def add(self, keys: Tensor) -> None:
        self._pending.append(gather(keys.detach()))

    def commit(self, taken: Tensor) -> None:
        keys = torch.cat(self._pending)
        self._pending = []
        where = (self.position + torch.arange(len(keys), device=keys.device)) % SIZE
        self.rows[where] = torch.where(taken > 0, keys, self.rows[where])
        moved = (len(keys) * taken).to(torch.int64)
        self.position.copy_((self.position + moved) % SIZE)
        self.filled.copy_((self.filled + moved).clamp(max=SIZE))


class ToyQueue(ContrastiveModule[ToyConfig]):
    views_together = False

    def __init__(self, config: Pretrain, classes: int, budget: Budget) -> None:
        super().__init__(config, classes, budget)
        self.projector = nn.Linear(self.backbone.num_features, self.method.proj_output_dim)
        self.teacher = Teacher(self.backbone, self.projector)
        self.queue = Queue(self.method.proj_output_dim)

    def step(self, batch: Batch) -> StepOutput:
        queries = F.normalize(self.projector(self.encode(batch.views[0], self.backbone)[0]), dim=1)
        with torch.no_grad():
            features = self.encode(batch.views[0], self.teacher.backbone)
            keys = F.normalize(self.teacher.projector(features[1]), dim=1)
        logits = torch.cat([(queries * keys).sum(dim=1, keepdim=True), queries @ self.queue.rows.T], dim=1) / 0.2
        self.queue.add(keys)
        return StepOutput((logits.logsumexp(dim=1) - logits[:, 0]).mean(), features)

    def embed(self, images: Tensor) -> Tensor:
        return self.teacher.projector(self(images))

    def after_step(self, taken: Tensor) -> None:
        self.teacher.update(self, MOMENTUM, taken)
        self.queue.commit(taken)
