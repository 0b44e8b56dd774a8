#!/usr/bin/env bash
# VICReg on ImageNet-100, 400 epochs, two GPUs, DALI. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method vicreg \
    --epochs 400 \
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
    --hidden_mlp 2048 \
    --encoding_dim 2048 \
    --sim_weight 25 \
    --var_weight 25 \
    --cov_weight 1 \
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.2 \
    --hue 0.1 \
    --gaussian_prob 0.5 \
    --solarization_prob 0.1 \
    --min_scale 0.2 \
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name vicreg-imagenet100 \
    "$@"
