#!/usr/bin/env bash
# SupCon on ImageNet-100 with 2 x 224 + 6 x 96 pixels, 100 epochs, two GPUs, DALI. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method supcon \
    --epochs 100 \
    --batch_size 128 \
    --optimizer sgd \
    --lars \
    --lars_eta 0.02 \
    --lars_clip \
    --lr 0.3 \
    --weight_decay 1e-4 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --multicrop \
    --n_crops 2 \
    --n_small_crops 6 \
    --temperature 0.1 \
    --encoding_dim 128 \
    --brightness 0.8 \
    --contrast 0.8 \
    --saturation 0.8 \
    --hue 0.2 \
    --min_scale 0.14 \
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name supcon_multicrop-imagenet100 \
    "$@"
