#!/usr/bin/env bash
# SwAV on ImageNet-100 with 2 x 224 + 6 x 96 pixels, 200 epochs, two GPUs, DALI. Appended flags override these.
# The hyper-parameters of swav.sh with the paper's crops; small crops predict, but are not assigned.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method swav \
    --epochs 200 \
    --batch_size 128 \
    --optimizer sgd \
    --lars \
    --lars_eta 0.02 \
    --lars_clip \
    --lr 0.6 \
    --weight_decay 1e-6 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --multicrop \
    --n_crops 2 \
    --n_small_crops 6 \
    --min_scale 0.14 \
    --small_scale 0.05 0.14 \
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
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name swav_multicrop-imagenet100 \
    "$@"
