#!/usr/bin/env bash
# SwAV with a ResNet-50 on ImageNet, 2 x 224 + 6 x 96 pixels, 200 epochs, four GPUs, DALI.
# The authors' setting for a global batch of 256; their LARS adapts biases and norms, too. Appended flags override these.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet resnet50 \
    --data_folder /datasets \
    --train_dir imagenet/train \
    --val_dir imagenet/val \
    --method swav \
    --epochs 200 \
    --batch_size 64 \
    --optimizer sgd \
    --lars \
    --lars_eta 0.001 \
    --lr 0.6 \
    --min_lr 0.0006 \
    --weight_decay 1e-6 \
    --scheduler warmup_cosine \
    --warmup_epochs 0 \
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
    --freeze_prototypes_epochs 1 \
    --queue_size 3840 \
    --queue_start_epoch 15 \
    --brightness 0.8 \
    --contrast 0.8 \
    --saturation 0.8 \
    --hue 0.2 \
    --gaussian_prob 0.5 \
    --dali \
    --gpus 0 1 2 3 \
    --num_workers 8 \
    --name swav_multicrop-imagenet \
    "$@"
