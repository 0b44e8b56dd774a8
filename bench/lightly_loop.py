"""Train a method made of lightly's modules in the loop of its documentation, for compare.py.

The backbone is ours, so that both toolkits train the same one.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from lightly.data import LightlyDataset
from lightly.transforms import SimCLRTransform
from lightly_methods import METHODS, Method
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from cl.backbones import Backbone, build_backbone
from cl.config.backbone import BackboneConfig

MEAN = [0.4914, 0.4822, 0.4465]
STD = [0.2470, 0.2435, 0.2616]


def backbone_of(width: int) -> Backbone:
    """Our ResNet-18 for images of 32 pixels."""
    return build_backbone(BackboneConfig(width=width), 32)


def model_of(method: str, width: int) -> Method:
    backbone = backbone_of(width)
    return METHODS[method](backbone, backbone.num_features)


class InMemory(ImageFolder):
    """Images that are decoded once, like torchvision's CIFAR-10 in lightly's examples."""

    def __init__(self, folder: Path) -> None:
        self.images: dict[str, Image.Image] = {}
        super().__init__(str(folder), loader=self.image)

    def image(self, path: str) -> Image.Image:
        if path not in self.images:
            self.images[path] = Image.open(path).convert("RGB")
        return self.images[path]


def batches(folder: Path, batch_size: int, workers: int) -> DataLoader[Any]:
    images = InMemory(folder)
    for path, _ in images.samples:
        images.image(path)
    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize={"mean": MEAN, "std": STD})
    dataset = LightlyDataset.from_torch_dataset(images, transform=transform)
    return DataLoader(
        dataset, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )


def optimizer_of(method: str, model: Method, batch_size: int) -> torch.optim.Optimizer:
    if method == "simclr":
        return torch.optim.SGD(model.parameters(), lr=0.06 * batch_size / 128, momentum=0.9, weight_decay=5e-4)
    return torch.optim.AdamW(model.parameters(), lr=1e-3 * batch_size / 128, weight_decay=1e-4)


def step(
    model: Method, optimizer: torch.optim.Optimizer, batch: Any, device: torch.device, bf16: bool = False
) -> Tensor:
    """Take an optimizer step; return the loss."""
    x0, x1 = (x.to(device) for x in batch[0])
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = model(x0, x1)
    loss.backward()
    optimizer.step()
    model.after_step()
    optimizer.zero_grad()
    return loss


def train(
    model: Method,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Any],
    device: torch.device,
    epochs: int,
    steps: int | None,
    bf16: bool = False,
) -> Iterator[float]:
    """Train, and yield the images per second of each epoch, which has at most `steps` steps."""
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        began = time.perf_counter()
        seen = 0
        for batch in islice(loader, steps):
            last_loss = step(model, optimizer, batch, device, bf16)
            seen += len(batch[0][0])
        scheduler.step()
        assert math.isfinite(last_loss.item())
        yield seen / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--train_dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for backbone.pth and speed.json")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--fast_dev_run", action="store_true", help="one step")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--num_workers", type=int, default=8)
    parser.add_argument("--bf16", action="store_true", help="autocast and channels last, which its examples do not use")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model_of(args.method, args.width).to(device)
    if args.bf16:
        model.to(memory_format=torch.channels_last)
    loader = batches(args.train_dir, args.batch_size, args.num_workers)
    epochs = 1 if args.fast_dev_run else args.epochs
    steps = 1 if args.fast_dev_run else None
    optimizer = optimizer_of(args.method, model, args.batch_size)
    speeds = list(train(model, optimizer, loader, device, epochs, steps, args.bf16))
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(model.backbone.state_dict(), args.out / "backbone.pth")
    (args.out / "speed.json").write_text(json.dumps(speeds))


if __name__ == "__main__":
    main()
