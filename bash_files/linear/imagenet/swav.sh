#!/usr/bin/env bash
# Linear evaluation of the newest run (SwAV, ImageNet); add --pretrained_feature_extractor RUN for another.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_linear.py" imagenet resnet50 \
    --data_folder /datasets \
    --train_dir imagenet/train \
    --val_dir imagenet/val \
    --epochs 100 \
    --optimizer sgd \
    --lr 0.3 \
    --scheduler warmup_cosine \
    --warmup_epochs 0 \
    --weight_decay 1e-6 \
    --dali \
    --batch_size 64 \
    --gpus 0 1 2 3 \
    --num_workers 8 \
    --name swav-linear-imagenet \
    --pretrained_feature_extractor trained_models/latest \
    "$@"
