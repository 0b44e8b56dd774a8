#!/usr/bin/env bash
# Continues pretraining from weights that one has, on a folder of images:
#     bash bash_files/adapt.sh FOLDER ENCODER WEIGHTS
# FOLDER holds images or class folders; or a folder `train` and, with class folders, a folder `val` to measure accuracy
# on. WEIGHTS is a file, a run folder, torchvision or timm/NAME. Appended flags override these.
set -euo pipefail

usage="expected: adapt.sh FOLDER ENCODER WEIGHTS"
folder=${1:?$usage}
encoder=${2:?$usage}
weights=${3:?$usage}
shift 3
images=(--train_dir "$folder")
if [[ -d $folder/train ]]; then
    images=(--train_dir "$folder/train")
    if [[ -d $folder/val ]]; then
        images+=(--val_dir "$folder/val")
    fi
fi
exec python3 "$(dirname "${BASH_SOURCE[0]}")/../main_contrastive.py" custom "$encoder" \
    "${images[@]}" \
    --init_from "$weights" \
    --epochs 4 \
    --batch_size 64 \
    --name adapted \
    "$@"
