#!/usr/bin/env bash
# SimSiam with a 2048/512 head on ImageNet-100, 100 epochs, two GPUs, DALI. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method simsiam \
    --epochs 100 \
    --batch_size 128 \
    --optimizer sgd \
    --lr 0.5 \
    --weight_decay 1e-5 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --encoding_dim 2048 \
    --pred_hidden_dim 512 \
    --zero_init_residual \
    --no_lr_scheduler_for_pred_head \
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.4 \
    --hue 0.1 \
    --min_scale 0.08 \
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name simsiam-imagenet100 \
    "$@"
