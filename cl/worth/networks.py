"""The rows of the table: raw pixels, random initialisation, the weights that a run started from, and the run."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.backbones import Backbone, build_backbone
from cl.backbones.loading import load_init_from
from cl.config.backbone import is_path
from cl.data.views.spec import EvalSpec, Norm
from cl.errors import UserError
from cl.worth.runs import Run

PIXELS = 32  # side to which raw pixels are reduced: more make thousands of features, of which few labels learn less
RAW = "raw pixels"
RANDOM = "random initialisation"


class RawPixels(nn.Module):
    """Images [B, C, H, W] -> their pixels [B, F], averaged to at most 32 x 32."""

    def forward(self, images: Tensor) -> Tensor:
        side = min(PIXELS, *images.shape[2:])
        return F.adaptive_avg_pool2d(images, side).flatten(1)


@dataclass(frozen=True)
class Row:
    """A network of the table, and the evaluation views that it takes."""

    name: str
    network: nn.Module
    view: EvalSpec  # of evaluation
    norm: Norm
    run: Run | None = None  # None for what a run is compared with
    before: tuple[str, ...] = ()  # of a run: the rows that it is compared with; the last one is what one had

    @property
    def had(self) -> str:
        return self.before[-1]


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Raw pixels, then what the runs started from, each once, then the runs."""
    first = runs[0].backbone.card
    baselines = {RAW: Row(RAW, RawPixels(), first.view, (first.mean, first.std))}
    trained = []
    for run in runs:
        before = [RAW, _name(RANDOM, _architecture, run, runs)]
        if before[1] not in baselines:
            baselines[before[1]] = _row(before[1], run, _random(run))
        if run.started_from is not None:
            before.append(_name(_short_start(run), _start_key, run, runs))
            if before[2] not in baselines:
                baselines[before[2]] = _row(before[2], run, _start(run))
        trained.append(replace(_row(run.name, run, run.backbone), run=run, before=tuple(before)))
    return [*baselines.values(), *trained]


def pairs_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Whose difference is shown: of each run and every row that it is compared with, then of it and the first run."""
    runs = [row for row in rows if row.run is not None]
    pairs = [(row.name, before) for row in runs for before in row.before]
    return pairs + [(row.name, runs[0].name) for row in runs[1:]]


def _row(name: str, run: Run, network: Backbone) -> Row:
    card = run.backbone.card
    return Row(name, network, card.view, (card.mean, card.std))


def _name(short: str, key: Callable[[Run], Hashable], run: Run, runs: Sequence[Run]) -> str:
    """`short`, followed by the first run that it belongs to if it means different networks in different runs."""
    keys = [key(other) for other in runs]
    owners = [other for other, other_key in zip(runs, keys, strict=True) if other_key == key(run)]
    meanings = {k for other, k in zip(runs, keys, strict=True) if short == RANDOM or _short_start(other) == short}
    return short if len(meanings) == 1 else f"{short} ({owners[0].name})"


def _architecture(run: Run) -> Hashable:
    card = run.backbone.card
    return card.encoder, card.stem, card.width, card.in_channels, card.view, card.patch_size, card.mean, card.std


def _start_key(run: Run) -> Hashable:
    return run.started_from, run.config.backbone.weights_key, _architecture(run)


def _short_start(run: Run) -> str:
    source = run.started_from
    if source is None:
        return ""
    key = f", {run.config.backbone.weights_key}" if run.config.backbone.weights_key else ""
    return f"start: {Path(source).name if is_path(source) else source}{key}"


def _random(run: Run) -> Backbone:
    """The network before the run's first step, if it started from no weights: the same seed, drawn first as there."""
    config = run.config
    state = torch.get_rng_state()
    torch.manual_seed(config.run.seed)
    network = build_backbone(config.backbone, config.views.crop_size, config.data.in_channels)
    torch.set_rng_state(state)
    return network


def _start(run: Run) -> Backbone:
    config = replace(run.config.backbone, init_from=run.started_from)
    size, channels = run.config.views.crop_size, run.config.data.in_channels
    network = build_backbone(config, size, channels)
    try:
        load_init_from(network, config, size, channels)
    except UserError as error:
        raise UserError(f"RUN: got {run.name}, expected the weights that it started from: {error}") from None
    return network
