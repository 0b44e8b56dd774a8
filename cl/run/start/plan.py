"""The numbers of a run that follow from its flags, its data and its devices."""

from dataclasses import dataclass

from cl.config.programs import Linear, Pretrain
from cl.data.datamodule import ImageData
from cl.data.order.selection import count_labelled
from cl.data.views.spec import Norm
from cl.optim.schedules import Budget, Schedule
from cl.run.start.devices import Devices


@dataclass(frozen=True)
class Plan:
    """The numbers that the banner and the trainer need."""

    title: str
    train_images: int
    labelled_images: int  # training images with a label
    knn_bank: int  # labelled training images that kNN uses
    val_images: int
    classes: int
    norm: Norm
    norm_origin: str
    notes: tuple[str, ...]  # warnings about the images
    budget: Budget
    warmup_steps: int
    devices: Devices
    losses_per_step: int  # per optimizer step
    loader: str  # how images reach the device
    bytes_in_flight: int  # that the workers of a process may hold in shared memory


def make_plan(title: str, config: Pretrain | Linear, data: ImageData, devices: Devices) -> Plan:
    """Compute the plan."""
    splits = data.splits
    budget = Budget.of(config.run, data.global_batch, data.steps_per_epoch)
    labelled = count_labelled(splits.train.targets)
    return Plan(
        title=title,
        train_images=len(splits.train),
        labelled_images=labelled,
        knn_bank=min(_max_bank(config) or labelled, labelled),
        val_images=len(splits.val or ()),
        classes=len(splits.classes),
        norm=splits.norm,
        norm_origin=splits.norm_origin,
        notes=(*splits.left_out, *splits.notes),
        budget=budget,
        warmup_steps=Schedule.of(config.optim.grid[0], budget).warmup,
        devices=devices,
        losses_per_step=data.settings.losses_per_step,
        loader=str(data),
        bytes_in_flight=data.bytes_in_flight(),
    )


def _max_bank(config: Pretrain | Linear) -> int:
    """The requested number of images in the kNN bank; 0 for all."""
    if config.run.fast_dev_run:
        return config.data.batch_size
    return config.online.knn_bank if isinstance(config, Pretrain) else 0
