#!/usr/bin/env bash
# SimSiam on CIFAR-10, 1000 epochs, one GPU. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" cifar10 resnet18 \
    --data_folder /datasets \
    --method simsiam \
    --epochs 1000 \
    --batch_size 256 \
    --optimizer sgd \
    --lr 0.5 \
    --weight_decay 1e-5 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --hidden_mlp 2048 \
    --encoding_dim 2048 \
    --pred_hidden_dim 512 \
    --zero_init_residual \
    --no_lr_scheduler_for_pred_head \
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.4 \
    --hue 0.1 \
    --gaussian_prob 0 \
    --min_scale 0.08 \
    --gpus 0 \
    --num_workers 8 \
    --name simsiam-cifar10 \
    "$@"
