#!/usr/bin/env bash
# Linear evaluation of the newest run (distillation, CIFAR-10); add --pretrained_feature_extractor RUN for another.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_linear.py" cifar10 resnet18 \
    --data_folder /datasets \
    --epochs 100 \
    --optimizer sgd \
    --lr 0.1 \
    --scheduler step \
    --lr_decay_steps 60 80 \
    --weight_decay 0 \
    --batch_size 256 \
    --gpus 0 \
    --num_workers 8 \
    --name distill-linear-cifar10 \
    --pretrained_feature_extractor trained_models/latest \
    "$@"
