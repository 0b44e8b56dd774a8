#!/usr/bin/env bash
# SwAV on CIFAR-100, 1000 epochs, one GPU. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" cifar100 resnet18 \
    --data_folder /datasets \
    --method swav \
    --epochs 1000 \
    --batch_size 256 \
    --optimizer sgd \
    --lars \
    --lars_eta 0.02 \
    --lars_clip \
    --lr 0.6 \
    --weight_decay 1e-6 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --hidden_mlp 2048 \
    --encoding_dim 128 \
    --prototypes 3000 \
    --sinkhorn_epsilon 0.05 \
    --temperature 0.1 \
    --freeze_prototypes_epochs 2 \
    --queue_size 3840 \
    --queue_start_epoch 50 \
    --brightness 0.8 \
    --contrast 0.8 \
    --saturation 0.8 \
    --hue 0.2 \
    --gaussian_prob 0.5 \
    --min_scale 0.08 \
    --gpus 0 \
    --num_workers 8 \
    --name swav-cifar100 \
    "$@"
