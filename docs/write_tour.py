"""Write tour.ipynb and run it, so that it has its outputs: python docs/write_tour.py"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

DOCS = Path(__file__).resolve().parent
CELLS = [  # Markdown and code in turns
    """# From digits to neighbours

A network learns from images without labels, and then finds similar images. The images are scikit-learn's handwritten
digits, so nothing is downloaded; one CPU core needs half a minute.

First the training. `main` is the program `main_contrastive.py` (or `cl-pretrain`), with the words that one would type:
a ResNet-18 of a quarter of the usual width, trained with SimCLR for 12 epochs.""",
    """from cl.pretrain import main

main(["digits", "resnet18", "--width", "16", "--run_id", "tour"])""",
    """The run folder holds the backbone, and a card that says how images are prepared for it. `load_backbone` reads
both.""",
    """import cl

backbone = cl.load_backbone("trained_models/tour")
backbone.num_features, backbone.card.encoder, backbone.card.crop_size""",
    """Features of 1000 digits. `transform` takes a picture or a file name, and resizes, crops and normalises it as in
evaluation.""",
    """import torch
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
pictures = [Image.fromarray((image * 255 / 16).astype("uint8")).convert("RGB") for image in digits.images[:1000]]
features = backbone(torch.stack([backbone.transform(picture) for picture in pictures]))
features.shape""",
    """The nearest neighbours of an image are those whose features point in the most similar direction. Of each digit
from 0 to 9 the first image, and on its right its eight nearest neighbours among the others:""",
    """from matplotlib import pyplot

directions = torch.nn.functional.normalize(features)
similarity = directions @ directions.T
queries = [digits.target[:1000].tolist().index(digit) for digit in range(10)]
nearest = similarity[queries].topk(9).indices  # [10, 9]: each image is its own nearest neighbour

figure, axes = pyplot.subplots(10, 9, figsize=(4.5, 5))
for place, index in zip(axes.flat, nearest.flatten().tolist(), strict=True):
    place.imshow(digits.images[index], cmap="gray_r")
    place.axis("off")
figure.savefig("neighbours.png")""",
    """How many of the neighbours show the same digit? No label was used in training.""",
    """target = torch.tensor(digits.target[:1000])
same = (target[nearest[:, 1:]] == target[nearest[:, :1]]).float().mean().item()
print(f"{100 * same:.0f} % of the neighbours show the same digit")""",
    """The same for a folder of photographs, from the command line: [your images](your_images.md). What the lines of the
training mean: [quick start](quick_start.md).""",
]


def notebook() -> nbformat.NotebookNode:
    cells = [(new_code_cell if number % 2 else new_markdown_cell)(text) for number, text in enumerate(CELLS)]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def run(tour: nbformat.NotebookNode) -> None:
    """Run the cells in an empty folder."""
    paths = [str(DOCS.parent), os.environ.get("PYTHONPATH", "")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(tour, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in tour.cells:
        cell.metadata.pop("execution", None)


if __name__ == "__main__":
    tour = notebook()
    run(tour)
    nbformat.write(tour, DOCS / "tour.ipynb")
