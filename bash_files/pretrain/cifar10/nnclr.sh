#!/usr/bin/env bash
# NNCLR on CIFAR-10, 1000 epochs, one GPU. Appended flags override these.
# solo-learn's queue outlasts an epoch of these 50,000 images, of which the banner warns.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" cifar10 resnet18 \
    --data_folder /datasets \
    --method nnclr \
    --epochs 1000 \
    --batch_size 256 \
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
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.2 \
    --hue 0.1 \
    --solarization_prob 0 0.2 \
    --gaussian_prob 0 \
    --min_scale 0.08 \
    --gpus 0 \
    --num_workers 8 \
    --name nnclr-cifar10 \
    "$@"
