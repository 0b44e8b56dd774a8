"""Was it worth it? python -m cl.worth RUN [RUN ...] compares pretraining runs with what one had before.

One table of raw pixels, the same network at random initialisation, the weights that a run started from, and each run;
with a 95 % interval at every number and one sentence per run.
"""

import argparse
import time
from collections.abc import Mapping, Sequence

from cl.machine.home import replace_missing_folders

if __name__ == "__main__":
    replace_missing_folders()  # first: Lightning imports matplotlib, which looks for its folder

import numpy as np
import torch

from cl.cli import run
from cl.config.run import DeviceConfig
from cl.data.images import ImageSet
from cl.evaluation.features import Labelled
from cl.machine.started_as import argument_parser
from cl.run.start.devices import choose_devices, limit_threads
from cl.worth.columns import VERDICT, Evaluation, answers_of, differences_of, linear_config
from cl.worth.features import Extractor
from cl.worth.images import Images, images_of, loading
from cl.worth.networks import Row, pairs_of, rows_of
from cl.worth.picture import draw_worth
from cl.worth.runs import read_runs
from cl.worth.sentence import collapse_of, verdict
from cl.worth.statistics import Answers, accuracy
from cl.worth.table import percent, points, table
from cl.worth.without_labels import compare_without_labels

SCOPE = (
    "The intervals are about these networks, for other images and other draws of the labels. A claim about a recipe\n"
    "needs runs with several seeds."
)


# On a CPU the memory of larger activations is given back to the system and zeroed again at every layer: for 128 images
# of 224 pixels this took 4.9 s in batches of 64, more than the network itself, and 2.0 s in batches of 16.
BATCH = {"cpu": 16, "cuda": 256}


def main(argv: Sequence[str]) -> None:
    args = _parser().parse_args(argv)
    limit_threads()
    device = choose_devices(DeviceConfig(accelerator=args.accelerator)).device(0)
    runs = read_runs(args.runs)
    data = loading(runs[0], args.num_workers, args.batch_size or BATCH[device.type])
    images = images_of(runs, data, use_labels=not args.no_labels)
    rows = rows_of(runs)
    extractor = Extractor(data, device)
    if images.bank is None:
        print(compare_without_labels(rows, images, extractor))
    else:
        print(compare(rows, images, images.bank, extractor))


def compare(rows: Sequence[Row], images: Images, bank: ImageSet, extractor: Extractor) -> str:
    """What to print about the rows: both tables and the sentences. Draws worth.png in the folder of each run."""
    answers: dict[str, Mapping[str, Answers]] = {}
    collapses: dict[str, str] = {}
    for row in rows:
        start = time.perf_counter()
        evaluation = _evaluation(row, images, bank, extractor)
        answers[row.name] = answers_of(evaluation)
        collapses[row.name] = collapse_of(row.run, evaluation.test.features) if row.run is not None else ""
        print(f"{row.name}: {time.perf_counter() - start:.1f} s", flush=True)
    accuracies = {name: {column: accuracy(cell) for column, cell in row.items()} for name, row in answers.items()}
    differences = {(name, base): differences_of(answers[base], answers[name]) for name, base in pairs_of(rows)}
    sentences = [
        verdict(row, {base: differences[row.name, base][VERDICT] for base in row.before}, VERDICT, collapses[row.name])
        for row in rows
        if row.run is not None
    ]
    title = f"{len(images.test)} test images: {images.source}"
    texts = [
        f"\n{title}\n{len(bank)} labelled images to learn from, {len(images.classes)} classes; 95 % intervals",
        table("accuracy", accuracies, percent),
        table("difference in points", {f"{a} - {b}": cells for (a, b), cells in differences.items()}, points),
        "\n".join(sentences),
        SCOPE,
        draw_worth(rows, accuracies, title),
    ]
    return "\n\n".join(text for text in texts if text)


def _evaluation(row: Row, images: Images, bank: ImageSet, extractor: Extractor) -> Evaluation:
    config = linear_config(extractor.data.dataset)
    learned = extractor.evaluation_views(row, bank, mirrors=config.views.flip_prob > 0)
    tested = extractor.evaluation_views(row, images.test, mirrors=False)[:, 0]
    return Evaluation(
        bank=Labelled(learned, torch.from_numpy(bank.targets.astype(np.int64))),
        test=Labelled(tested, torch.from_numpy(images.test.targets.astype(np.int64))),
        classes=len(images.classes),
        config=config,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser("worth", (__doc__ or "").split("\n")[0])
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder of main_contrastive.py; several of one data set"
    )
    parser.add_argument("--no_labels", action="store_true", help="compare without labels, even if the images have some")
    parser.add_argument("--batch_size", type=int, help="images per batch [16; 256 on a GPU]")
    parser.add_argument("--num_workers", type=int, help="loader processes; by default one core is left free")
    parser.add_argument("--accelerator", choices=("auto", "gpu", "cpu"), default="auto", help="hardware [auto]")
    return parser


if __name__ == "__main__":
    run(main)
