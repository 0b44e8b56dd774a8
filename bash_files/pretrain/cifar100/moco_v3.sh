#!/usr/bin/env bash
# MoCo v3 on CIFAR-100, 1000 epochs, one GPU. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" cifar100 resnet18 \
    --data_folder /datasets \
    --method moco_v3 \
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
    --hidden_mlp 4096 \
    --encoding_dim 256 \
    --pred_hidden_dim 4096 \
    --temperature 0.2 \
    --teacher_momentum 0.99 \
    --teacher_momentum_end 1.0 \
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.2 \
    --hue 0.1 \
    --solarization_prob 0 0.2 \
    --gaussian_prob 0 \
    --min_scale 0.08 \
    --gpus 0 \
    --num_workers 8 \
    --name moco_v3-cifar100 \
    "$@"
