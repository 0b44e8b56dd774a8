"""Evaluate a pretrained backbone: python main_linear.py DATASET ENCODER --pretrained_feature_extractor RUN [flags].

The stages of an evaluation are in cl/linear.py.
"""

from cl.cli import run
from cl.linear import main

if __name__ == "__main__":
    run(main)
