#!/usr/bin/env bash
# Linear evaluation of the newest run (distillation, ImageNet-100); add --pretrained_feature_extractor RUN for another.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_linear.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --epochs 100 \
    --optimizer sgd \
    --lr 0.1 \
    --scheduler step \
    --lr_decay_steps 60 80 \
    --weight_decay 0 \
    --dali \
    --batch_size 128 \
    --gpus 0 1 \
    --num_workers 8 \
    --name distill-linear-imagenet100 \
    --pretrained_feature_extractor trained_models/latest \
    "$@"
