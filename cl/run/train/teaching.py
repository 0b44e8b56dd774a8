"""The teacher of --method distill: loaded once, and its features of all images kept from one run to the next."""

import hashlib
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cl.backbones.inputs import licence_of
from cl.backbones.weight_files import file_of
from cl.cli import Resolved
from cl.config.methods.distill import DistillConfig
from cl.config.programs import Pretrain
from cl.config.views import in_pixels, sides
from cl.data.datamodule import ImageData, evaluation_only
from cl.data.images import ImageSet, Subset
from cl.data.views.draws import Ints
from cl.data.views.spec import Norm
from cl.distributed import rank
from cl.errors import UserError
from cl.evaluation.feature_blocks import Features, remembered
from cl.evaluation.features import extract_features
from cl.machine.home import cache_folder
from cl.methods import ContrastiveModule
from cl.methods.distill import Distill
from cl.methods.targets import FeatureTable, TeacherNetwork
from cl.nn.digest import digest_of_weights
from cl.run.weights.load import LoadedBackbone, load_backbone, load_published

FLAG = "--distill_from"
VERSION = 1  # of what a file of features depends on


@dataclass(frozen=True)
class Teacher:
    network: LoadedBackbone
    sha256: str  # of its file; of its weights, if timm has downloaded them
    licence: str | None


def with_teacher(resolved: Resolved[Pretrain]) -> tuple[Resolved[Pretrain], Teacher | None]:
    """Load the teacher, if the method has one; the run with what follows from it."""
    config = resolved.config
    method = config.method
    if not isinstance(method, DistillConfig):
        return resolved, None
    teacher = _load(method, config)
    features = teacher.network.num_features
    if resolved.origins["proj_output_dim"] == "typed" and method.proj_output_dim != features:
        raise UserError(
            f"--proj_output_dim: got {method.proj_output_dim}, expected {features}, as many as the teacher has features"
        )
    if method.distill_sha256 not in (None, teacher.sha256):
        raise UserError(
            f"{FLAG}: got {method.distill_from}, whose SHA-256 is {teacher.sha256}, expected the teacher of "
            f"--distill_sha256 {method.distill_sha256}"
        )
    licence = method.distill_licence or teacher.licence
    known = replace(method, proj_output_dim=features, distill_sha256=teacher.sha256, distill_licence=licence)
    changed = {name for name, value in vars(known).items() if value != vars(method)[name]}
    origins = {**resolved.origins, **dict.fromkeys(changed, "teacher")}
    return replace(resolved, config=replace(config, method=known), origins=origins), teacher


def _load(method: DistillConfig, config: Pretrain) -> Teacher:
    source = method.distill_from
    if source is None:
        raise UserError(f"{FLAG}: not given, expected a teacher: timm/NAME, a file of weights or a run folder")
    channels = config.data.in_channels
    if source.startswith("timm/"):
        network = load_published(source, FLAG, channels, method.distill_size)
        teacher = Teacher(network, digest_of_weights(network), licence_of(source))
    else:
        (mean, std) = config.data.norm or (None, None)
        network = load_backbone(
            source, FLAG, encoder=method.distill_encoder, mean=mean, std=std, crop_size=method.distill_size
        )
        teacher = Teacher(network, hashlib.sha256(file_of(source).read_bytes()).hexdigest(), None)
    if network.card.in_channels != channels:
        raise UserError(
            f"{FLAG}: got {source} for {network.card.in_channels} channels, expected one for the {channels} of "
            "--in_channels"
        )
    return teacher


def give_targets(
    module: ContrastiveModule[Any], teacher: Teacher | None, data: ImageData, config: Pretrain
) -> dict[str, str]:
    """Give the method what its teacher says of the images; rows for the banner."""
    if teacher is None or not isinstance(module, Distill):
        return {}
    card = teacher.network.card
    features = teacher.network.num_features
    rows = {
        "teacher": f"{module.method.distill_from} ({card.encoder}), {features} features of views of "
        f"{in_pixels(card.crop_size)}, SHA-256 {teacher.sha256[:16]}",
        "licence": f"{module.method.distill_licence or 'unknown'}: "
        "that of the teacher; its terms may also apply to the student",
    }
    if config.run.dry_run:
        module.make_up_targets()
        return rows | {"targets": "made up: a dry run does not compute the teacher's features"}
    if module.method.distill_views == "same":
        rescaling = _rescaling(data.splits.norm, (card.mean, card.std))
        module.targets = TeacherNetwork(teacher.network, sides(card.crop_size), rescaling)
        return rows | {"targets": "the teacher sees the student's views, in each step"}
    began = time.perf_counter()
    module.targets = FeatureTable(_features(teacher, data, config))
    seconds = time.perf_counter() - began
    return rows | {"targets": f"the teacher's features of {len(data.splits.train)} images, in {seconds:.1f} s"}


def _rescaling(student: Norm, teacher: Norm) -> tuple[Tensor, Tensor]:
    """Factor and shift [C, 1, 1] from one normalisation to another."""
    (mean, std), (new_mean, new_std) = (
        [torch.tensor(values, dtype=torch.float64)[:, None, None] for values in norm] for norm in (student, teacher)
    )
    return std / new_std, (mean - new_mean) / new_std


def _features(teacher: Teacher, data: ImageData, config: Pretrain) -> list[Features]:
    """Features of all training images, from the user's cache as far as they are there."""
    images = data.splits.train
    card = teacher.network.card
    settings = replace(data.settings, evaluated=card.view, dtype=torch.float32)
    network = teacher.network.to(settings.device)
    cache = Path(config.data.cache_dir) if config.data.cache_dir is not None else cache_folder()
    folder = cache / f"features-{_key(teacher, images)}" if cache is not None else None
    hidden = rank() > 0 or not sys.stderr.isatty()
    with tqdm(None, "teacher's features", len(images), unit="image", leave=False, disable=hidden) as bar:

        def compute(index: Ints) -> Tensor:
            own = evaluation_only(Subset(images, index), (card.mean, card.std), settings)
            features, _ = extract_features(network, own.val_dataloader(), settings.device)
            own.teardown("fit")
            bar.update(len(index))
            return features

        return remembered(folder, len(images), compute)


def _key(teacher: Teacher, images: ImageSet) -> str:
    """What the features depend on: weights, view and images."""
    card = teacher.network.card
    parts = [VERSION, teacher.sha256, card.encoder, repr(card.view), card.mean, card.std]
    return hashlib.sha256(json.dumps([*parts, images.fingerprint()]).encode()).hexdigest()[:16]
