#!/usr/bin/env bash
# MoCo v3 with a ResNet-50 on ImageNet, 100 epochs, eight GPUs, DALI. Appended flags override these.
# The authors' setting: a global batch of 4096, LARS at 0.6 per 256 images, temperature 1.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet resnet50 \
    --data_folder /datasets \
    --train_dir imagenet/train \
    --val_dir imagenet/val \
    --method moco_v3 \
    --epochs 100 \
    --batch_size 512 \
    --optimizer sgd \
    --lars \
    --lr 0.6 \
    --weight_decay 1e-6 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 0.1 \
    --hidden_mlp 4096 \
    --encoding_dim 256 \
    --pred_hidden_dim 4096 \
    --temperature 1.0 \
    --teacher_momentum 0.99 \
    --teacher_momentum_end 1.0 \
    --zero_init_residual \
    --asymmetric_augmentations \
    --min_scale 0.2 \
    --dali \
    --gpus 0 1 2 3 4 5 6 7 \
    --num_workers 8 \
    --name moco_v3-imagenet \
    "$@"
