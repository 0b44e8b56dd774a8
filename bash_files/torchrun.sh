#!/usr/bin/env bash
# Runs a recipe with torchrun. On each of two nodes with four GPUs, where HOST is the name of the first node:
#     NODES=2 GPUS=4 HOST=node0 bash bash_files/torchrun.sh bash_files/pretrain/imagenet100/simclr.sh --batch_size 32
# Where host names do not resolve, ADDRESS is the address of this node, and HOST that of the first.
set -euo pipefail

recipe=${1:?a recipe is expected, such as bash_files/pretrain/imagenet100/simclr.sh}
shift
address=(${ADDRESS:+--local-addr "$ADDRESS"})
if [ -n "${ADDRESS:-}" ] && [ "$ADDRESS" = "${HOST:-}" ]; then
    address+=(--rdzv-conf is_host=true)
fi
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${GPUS:-1}" \
    "${address[@]}" --rdzv-backend c10d --rdzv-endpoint "${HOST:-localhost}:${PORT:-29500}" \
    --no-python bash "$recipe" --num_nodes "${NODES:-1}" --devices "${GPUS:-1}" "$@"
