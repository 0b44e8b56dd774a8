#!/usr/bin/env bash
# LeJEPA on CIFAR-100, 300 epochs, one GPU. Appended flags override these.
# Rate, weight and views of the authors' example; their decay for ResNets; head and epochs of eb_jepa on CIFAR-10.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" cifar100 resnet18 \
    --data_folder /datasets \
    --method lejepa \
    --epochs 300 \
    --batch_size 256 \
    --optimizer adamw \
    --lr 2e-3 \
    --weight_decay 5e-4 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 1e-2 \
    --hidden_mlp 2048 \
    --encoding_dim 128 \
    --sigreg_weight 0.02 \
    --sigreg_directions 1024 \
    --brightness 0.8 \
    --contrast 0.8 \
    --saturation 0.8 \
    --hue 0.2 \
    --solarization_prob 0.2 \
    --gaussian_prob 0 \
    --min_scale 0.08 \
    --gpus 0 \
    --num_workers 8 \
    --name lejepa-cifar100 \
    "$@"
