#!/usr/bin/env bash
# MoCo v2+ on ImageNet-100, 400 epochs, two GPUs, DALI. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method moco_v2 \
    --epochs 400 \
    --batch_size 128 \
    --optimizer sgd \
    --lr 0.3 \
    --weight_decay 1e-4 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.3 \
    --hidden_mlp 2048 \
    --encoding_dim 256 \
    --queue_size 65536 \
    --temperature 0.2 \
    --teacher_momentum 0.99 \
    --teacher_momentum_end 0.999 \
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.4 \
    --hue 0.1 \
    --gaussian_prob 0.5 \
    --min_scale 0.08 \
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name moco_v2-imagenet100 \
    "$@"
