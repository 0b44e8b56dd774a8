#!/usr/bin/env bash
# DINO with a ViT-S/16 on ImageNet-100 with 2 x 224 + 8 x 96 pixels, 400 epochs, eight GPUs, DALI. Appended flags
# override these. The authors' setting for ImageNet on one machine. Its evaluation:
# bash_files/linear/imagenet100/dino.sh with timm/vit_small_patch16_224 in place of resnet18.
set -euo pipefail

exec python3 "$(dirname "${BASH_SOURCE[0]}")/../../../main_contrastive.py" imagenet100 timm/vit_small_patch16_224 \
    --data_folder /datasets \
    --train_dir imagenet-100/train \
    --val_dir imagenet-100/test \
    --method dino \
    --epochs 400 \
    --batch_size 64 \
    --optimizer adamw \
    --lr 5e-4 \
    --min_lr 1e-6 \
    --weight_decay 0.04 \
    --weight_decay_end 0.4 \
    --no_decay_biases_and_norms \
    --clip_grad 3 \
    --clip_each_parameter \
    --drop_path 0.1 \
    --scheduler warmup_cosine \
    --warmup_epochs 10 \
    --classifier_lr 1e-3 \
    --hidden_mlp 2048 \
    --encoding_dim 256 \
    --prototypes 65536 \
    --temperature 0.1 \
    --teacher_temperature 0.07 \
    --teacher_temperature_start 0.04 \
    --teacher_temperature_warmup_epochs 30 \
    --teacher_momentum 0.996 \
    --teacher_momentum_end 1.0 \
    --freeze_last_layer_epochs 1 \
    --multicrop \
    --n_small_crops 8 \
    --small_crop_size 96 \
    --min_scale 0.4 \
    --small_scale 0.05 0.4 \
    --brightness 0.4 \
    --contrast 0.4 \
    --saturation 0.2 \
    --hue 0.1 \
    --gaussian_prob 1 0.1 0.5 \
    --solarization_prob 0 0.2 0 \
    --dali \
    --gpus 0 1 2 3 4 5 6 7 \
    --num_workers 8 \
    --name dino-vit-imagenet100 \
    "$@"
