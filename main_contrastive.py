"""Pretrain a backbone without labels: python main_contrastive.py DATASET ENCODER [flags]; --help lists them.

The stages of a run are in cl/pretrain.py.
"""

from cl.cli import run
from cl.pretrain import main

if __name__ == "__main__":
    run(main)
