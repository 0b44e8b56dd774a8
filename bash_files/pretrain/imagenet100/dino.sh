#!/usr/bin/env bash
# DINO on ImageNet-100, 400 epochs, two GPUs, DALI. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method dino \
    --epochs 400 \
    --batch_size 128 \
    --optimizer sgd \
    --lars \
    --lars_eta 0.02 \
    --lars_clip \
    --lr 0.3 \
    --weight_decay 1e-6 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --hidden_mlp 2048 \
    --encoding_dim 256 \
    --prototypes 4096 \
    --temperature 0.1 \
    --teacher_temperature 0.07 \
    --teacher_temperature_start 0.04 \
    --teacher_temperature_warmup_epochs 50 \
    --teacher_momentum 0.9995 \
    --teacher_momentum_end 1.0 \
    --freeze_last_layer_epochs 1 \
    --asymmetric_augmentations \
    --min_scale 0.08 \
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name dino-imagenet100 \
    "$@"
