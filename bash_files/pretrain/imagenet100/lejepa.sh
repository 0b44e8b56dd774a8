#!/usr/bin/env bash
# LeJEPA on ImageNet-100, 400 epochs, two GPUs, DALI. Appended flags override these.
# The authors' setting for ResNets: multi-crop, AdamW at 5e-4, weight 0.05; they do not give the epochs.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 resnet18 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method lejepa \
    --epochs 400 \
    --batch_size 128 \
    --optimizer adamw \
    --lr 5e-4 \
    --weight_decay 5e-4 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --min_lr 5e-7 \
    --classifier_lr 1e-2 \
    --hidden_mlp 2048 \
    --encoding_dim 128 \
    --sigreg_weight 0.05 \
    --sigreg_directions 1024 \
    --multicrop \
    --min_scale 0.3 \
    --small_scale 0.05 0.3 \
    --brightness 0.8 \
    --contrast 0.8 \
    --saturation 0.8 \
    --hue 0.2 \
    --solarization_prob 0.2 \
    --gaussian_prob 0.5 \
    --dali \
    --gpus 0 1 \
    --num_workers 8 \
    --name lejepa-imagenet100 \
    "$@"
