#!/usr/bin/env bash
# NNCLR on ImageNet-100, 400 epochs, two GPUs, DALI. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method nnclr \
    --epochs 400 \
    --batch_size 128 \
    --optimizer sgd \
    --lars \
    --lars_eta 0.02 \
    --lars_clip \
    --lr 0.4 \
    --weight_decay 1e-5 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --hidden_mlp 2048 \
    --encoding_dim 256 \
    --pred_hidden_dim 4096 \
    --queue_size 65536 \
    --temperature 0.2 \
    --asymmetric_augmentations \
    --min_scale 0.08 \
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name nnclr-imagenet100 \
    "$@"
