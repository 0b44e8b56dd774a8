#!/usr/bin/env bash
# SimSiam with a 512/128 head and a ResNet-50 on ImageNet, 100 epochs, four GPUs, DALI. Appended flags override these.
# The learning rate of the paper (0.05 per 256 images, no warm-up) with the head that works better on ResNet-18.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet resnet50 \
    --data_folder /datasets \
    --train_dir imagenet/train \
    --val_dir imagenet/val \
    --method simsiam \
    --epochs 100 \
    --batch_size 64 \
    --optimizer sgd \
    --lr 0.05 \
    --weight_decay 1e-4 \
    --scheduler warmup_cosine \
    --warmup_epochs 0 \
    --classifier_lr 0.1 \
    --encoding_dim 512 \
    --pred_hidden_dim 128 \
    --zero_init_residual \
    --no_lr_scheduler_for_pred_head \
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.4 \
    --hue 0.1 \
    --min_scale 0.2 \
    --dali \
    --gpus 0 1 2 3 \
    --num_workers 8 \
    --name simsiam-imagenet \
    "$@"
