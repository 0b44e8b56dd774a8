#!/usr/bin/env bash
# DINO on CIFAR-10, 1000 epochs, one GPU. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" cifar10 resnet18 \
    --data_folder /datasets \
    --method dino \
    --epochs 1000 \
    --batch_size 256 \
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
    --teacher_temperature 0.04 \
    --teacher_momentum 0.9995 \
    --teacher_momentum_end 1.0 \
    --freeze_last_layer_epochs 1 \
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.2 \
    --hue 0.1 \
    --solarization_prob 0 0.2 \
    --gaussian_prob 0 \
    --min_scale 0.08 \
    --gpus 0 \
    --num_workers 8 \
    --name dino-cifar10 \
    "$@"
