#!/usr/bin/env bash
# Linear evaluation on ImageNet-100. Replace RUN_ID with the name of the run folder, or add the flag at the end.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../main_linear.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --epochs 100 \
    --optimizer sgd \
    --scheduler step \
    --lr 0.1 \
    --lr_decay_steps 60 80 \
    --weight_decay 0 \
    --batch_size 128 \
    --gpus 0 1 \
    --num_workers 10 \
    --name simclr-linear-eval \
    --pretrained_feature_extractor trained_models/RUN_ID \
    --project contrastive_learning \
    "$@"
