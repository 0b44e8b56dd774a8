#!/usr/bin/env bash
# Barlow Twins on ImageNet-100, 100 epochs, two GPUs, DALI. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method barlow_twins \
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
    --lamb 5e-3 \
    --scale_loss 0.1 \
    --encoding_dim 2048 \
    --asymmetric_augmentations \
    --min_scale 0.08 \
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name barlow_twins-imagenet100 \
    "$@"
