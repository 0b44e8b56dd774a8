#!/usr/bin/env bash
# SimCLR without the positive in the denominator (DCL) on ImageNet, 100 epochs, four GPUs, DALI. Appended flags override
# these. lightly's benchmark: LARS at 0.075 sqrt(batch) = 1.2, temperature 0.1, batch norm in the projector.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet resnet50 \
    --data_folder /datasets \
    --train_dir imagenet/train \
    --val_dir imagenet/val \
    --decoupled \
    --epochs 100 \
    --batch_size 64 \
    --optimizer sgd \
    --lars \
    --lr 1.2 \
    --weight_decay 1e-6 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --temperature 0.1 \
    --hidden_mlp 2048 \
    --encoding_dim 128 \
    --proj_batch_norm \
    --brightness 0.8 \
    --contrast 0.8 \
    --saturation 0.8 \
    --hue 0.2 \
    --gaussian_prob 0.5 \
    --min_scale 0.08 \
    --dali \
    --gpus 0 1 2 3 \
    --num_workers 8 \
    --name simclr_decoupled-imagenet \
    "$@"
