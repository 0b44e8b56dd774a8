#!/usr/bin/env bash
# MoCo v3 with a ViT-S/16 on ImageNet, 300 epochs, eight GPUs, DALI. Appended flags override these.
# The authors' setting: a global batch of 4096, AdamW at 1.5e-4 per 256 images, temperature 0.2. Theirs has 12 heads.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet timm/vit_small_patch16_224 \
    --data_folder /datasets \
    --train_dir imagenet/train \
    --val_dir imagenet/val \
    --method moco_v3 \
    --epochs 300 \
    --batch_size 512 \
    --optimizer adamw \
    --lr 1.5e-4 \
    --weight_decay 0.1 \
    --scheduler warmup_cosine \
    --warmup_epochs 40 \
    --classifier_lr 1e-3 \
    --hidden_mlp 4096 \
    --encoding_dim 256 \
    --pred_hidden_dim 4096 \
    --temperature 0.2 \
    --teacher_momentum 0.99 \
    --teacher_momentum_end 1.0 \
    --asymmetric_augmentations \
    --min_scale 0.08 \
    --dali \
    --gpus 0 1 2 3 4 5 6 7 \
    --num_workers 8 \
    --name moco_v3-vit-imagenet \
    "$@"
