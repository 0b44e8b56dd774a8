#!/usr/bin/env bash
# MoCo v3 with a ViT-S/16 on ImageNet-100, 400 epochs, eight GPUs, DALI. Appended flags override these.
# Its evaluation: bash_files/linear/imagenet100/moco_v3.sh with timm/vit_small_patch16_224 in place of resnet18.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 timm/vit_small_patch16_224 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method moco_v3 \
    --epochs 400 \
    --batch_size 64 \
    --optimizer adamw \
    --lr 3e-4 \
    --weight_decay 0.1 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 3e-4 \
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
    --name moco_v3-vit-imagenet100 \
    "$@"
