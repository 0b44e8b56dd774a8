"""The card of a backbone, from a file that has one, from a run, or for a network that another toolkit trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cl
from cl.backbones.card import Card, teacher_of
from cl.backbones.weight_files import Weights
from cl.config.backbone import BackboneConfig
from cl.config.views import as_size
from cl.data.views.spec import EvalSpec, Norm
from cl.errors import UserError
from cl.run.folder.run_folder import SCHEMA


def read_card(weights: Weights) -> Card | None:
    """The card of an export or checkpoint of ours, None for other files; UserError if it is invalid."""
    if "card" not in weights.metadata and "cl" not in weights.metadata:
        return None
    try:
        if "card" in weights.metadata:
            return Card.from_json(weights.metadata["card"])
        return make_card(weights.metadata["cl"], {})
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(
            f"{weights.given}; {weights.file} is not a checkpoint of main_contrastive.py ({error})"
        ) from None


def make_card(metadata: Mapping[str, Any], metrics: Mapping[str, float | None]) -> Card:
    """The card of a pretraining run, from the metadata of its checkpoints (`checkpoint_metadata`)."""
    program = metadata["program"]
    schema = metadata["schema"]
    if program != "Pretrain" or schema != SCHEMA:
        raise ValueError(f"program {program}, schema {schema}; expected Pretrain and {SCHEMA}")
    config = metadata["config"]
    (mean, std) = metadata["norm"]
    backbone = BackboneConfig.from_dict(config["backbone"])
    views = config["views"]
    size = as_size(views["crop_size"])
    cover = views.get("eval_resize")
    view = EvalSpec(size, as_size(cover) if cover else None, views.get("eval_interpolation", "bilinear"))
    norm = tuple(map(float, mean)), tuple(map(float, std))
    return replace(
        network_card(backbone, view, norm, metadata.get("norm_origin", "")),
        in_channels=int(config["data"]["in_channels"]),
        classes=tuple(metadata["classes"]),
        method=config["method"]["method"],
        metrics=metrics,
        teacher=teacher_of(config["method"]),
    )


def network_card(built: BackboneConfig, view: EvalSpec, norm: Norm, norm_origin: str) -> Card:
    """The card of a network, without anything of the run that trained it."""
    (mean, std) = norm
    is_timm = built.timm_name is not None
    return Card(
        encoder=built.encoder,
        stem=None if is_timm else "small" if built.small_stem(view.size) else "large",
        width=None if is_timm else built.width,
        patch_size=built.patch_size,
        in_channels=len(mean),
        crop_size=view.size,
        resize=view.resize,
        mean=mean,
        std=std,
        classes=(),
        method="",
        metrics={},
        cl=cl.__version__,
        norm_origin=norm_origin,
        interpolation=view.interpolation,
    )
