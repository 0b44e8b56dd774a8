#!/usr/bin/env bash
# Distillation of an EfficientNet-Lite0 on CIFAR-10, 200 epochs, one GPU. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" cifar10 resnet18 \
    --data_folder /datasets \
    --method distill \
    --distill_from timm/tf_efficientnet_lite0 \
    --distill_size 96 \
    --epochs 200 \
    --batch_size 256 \
    --optimizer adamw \
    --lr 3e-3 \
    --weight_decay 1e-4 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 1e-2 \
    --hidden_mlp 2048 \
    --n_crops 1 \
    --min_scale 0.5 \
    --jitter_prob 0 \
    --grey_prob 0 \
    --gaussian_prob 0 \
    --gpus 0 \
    --num_workers 8 \
    --name distill-cifar10 \
    "$@"
