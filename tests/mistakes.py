"""Mistakes of users: command lines, and the files and folders that they refer to."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cl.backbones import build_backbone
from cl.cli import parse
from cl.config.backbone import BackboneConfig
from cl.config.programs import Linear, Pretrain
from cl.data.sources.registry import load
from cl.run.folder.checkpoint import checkpoint_metadata
from cl.run.folder.run_folder import _write_config
from cl.run.start.devices import on_devices
from tests.pictures import plain, write_classes
from tests.shards import write_tar

PRETRAIN, LINEAR = "main_contrastive.py", "main_linear.py"
DIGITS = ["digits", "resnet18"]
FOLDERS = "--data_folder /datasets --train_dir imagenet-100/train --val_dir imagenet-100/test"
SEED_PRETRAIN = (
    f"imagenet100 resnet18 {FOLDERS} --epochs 100 --optimizer sgd --scheduler warmup_cosine --lr 0.3 "
    "--weight_decay 1e-4 --batch_size 128 --temperature 0.2 --gpus 0 1 --num_workers 8 --hidden_mlp 2048 "
    "--name simclr --project contrastive_learning"
).split()
SEED_LINEAR = (
    f"imagenet100 resnet18 {FOLDERS} --epochs 100 --optimizer sgd --scheduler step --lr 0.1 --lr_decay_steps 60 80 "
    "--weight_decay 0 --batch_size 128 --gpus 0 1 --num_workers 10 --name simclr-linear-eval "
    "--pretrained_feature_extractor trained_models/RUN_ID --project contrastive_learning"
).split()
RUN = ["--pretrained_feature_extractor", "run"]
CUSTOM = ["custom", "resnet18", "--crop_size", "16", "--batch_size", "2", "--train_dir"]
TINY = "timm/test_efficientnet"
Case = tuple[str, list[str], list[str]]

BY_ARGV: list[Case] = [  # program, flags, parts of the message
    (PRETRAIN, [], ["dataset and encoder: not given"]),
    (PRETRAIN, ["digits"], ["encoder: not given"]),
    (PRETRAIN, ["--print_completion", "fish"], ["--print_completion: got fish, expected bash or zsh or tcsh"]),
    (LINEAR, [*DIGITS, "--print_completion"], ["--print_completion: got digits resnet18, expected bash"]),
    (LINEAR, ["digits"], ["encoder: not given"]),
    (PRETRAIN, ["digit", "resnet18"], ["dataset: got digit", "digits"]),
    (PRETRAIN, ["digits", "resnet19"], ["encoder: got resnet19", "resnet18"]),
    (PRETRAIN, ["digits", "resnet18", "resnet50"], ["resnet50"]),
    (PRETRAIN, [*DIGITS, "--optimizer", "sdg"], ["--optimizer: got sdg", "sgd, adam, adamw"]),
    (PRETRAIN, [*DIGITS, "--method", "simclrr"], ["--method: got simclrr", "did you mean simclr?"]),
    (PRETRAIN, [*DIGITS, "--temprature", "0.2"], ["--temprature", "did you mean --temperature?"]),
    (PRETRAIN, ["--temprature", "0.2", *DIGITS], ["--temprature", "did you mean --temperature?"]),
    (PRETRAIN, [*DIGITS, "--temprature=0.2"], ["--temprature", "did you mean --temperature?"]),
    (PRETRAIN, [*DIGITS, "--temp", "0.2"], ["--temp:", "did you mean --temperature?"]),
    (PRETRAIN, [*DIGITS, "-lr", "0.2"], ["-lr: no such flag, did you mean --lr?"]),
    (PRETRAIN, [*DIGITS, "--lamb", "0.1"], ["--lamb", "--method barlow_twins"]),
    (PRETRAIN, [*DIGITS, "--method", "barlow_twins", "--temperature", "0.1"], ["--temperature", "simclr"]),
    (PRETRAIN, [*DIGITS, "--method", "simsiam", "--supervised"], ["--supervised"]),
    (PRETRAIN, [*DIGITS, "--mean", "0.5", "0.5", "0.5"], ["--std: not given, expected it too"]),
    (PRETRAIN, [*DIGITS, "--std", "0.5", "0.5", "0.5"], ["--mean: not given, expected it too"]),
    (PRETRAIN, [*DIGITS, "--mean", "0.5", "--std", "0.5"], ["--mean: got 0.5, expected 3 numbers, one per"]),
    (PRETRAIN, [*DIGITS, "--mean", "123", "116", "103"], ["--mean: got 123 116 103", "at most 1"]),
    (LINEAR, [*DIGITS, *RUN, "--std", "1", "1", "0"], ["--std: got 1 1 0", "above 0"]),
    (LINEAR, ["custom", "resnet18", *RUN, "--eval_resize", "80"], ["--eval_resize: got 80, expected at least --crop"]),
    (PRETRAIN, [*DIGITS, "--temperature", "0"], ["--temperature: got 0", "above 0"]),
    (PRETRAIN, [*DIGITS, "--temperature", "nan"], ["--temperature: got nan"]),
    (PRETRAIN, [*DIGITS, "--lr", "inf"], ["--lr: got inf"]),
    (PRETRAIN, [*DIGITS, "--lr", "fast"], ["--lr: got fast", "a number"]),
    (PRETRAIN, [*DIGITS, "--lr"], ["--lr", "expected one argument"]),
    (PRETRAIN, [*DIGITS, "--lr", "-1e-3"], ["--lr: got -0.001", "at least 0"]),
    (PRETRAIN, [*DIGITS, "--seed", "99999999999"], ["--seed: got 99999999999", "at most 2147483647"]),
    (PRETRAIN, [*DIGITS, "--width", "1000000"], ["--width: got 1000000", "at most 4096"]),
    (PRETRAIN, ["digits", "timm/resnet18", "--width", "64"], ["--width: got it with timm/resnet18", "resnet50 only"]),
    (PRETRAIN, ["digits", "timm/resnet18", "--stem", "auto"], ["--stem: got it with timm/resnet18"]),
    (PRETRAIN, ["digits", "timm/vit_small", "--no_zero_init_residual"], ["--zero_init_residual: got it with timm/vit"]),
    (PRETRAIN, [*DIGITS, "--patch_size", "4"], ["--patch_size: got it with resnet18", "with timm/NAME only"]),
    (PRETRAIN, [*DIGITS, "--drop_path", "0.1"], ["--drop_path: got it with resnet18"]),
    (PRETRAIN, ["cifar10", "timm/vit_tiny_patch16_224", "--drop_path", "1"], ["--drop_path: got 1", "at most 0.9"]),
    (PRETRAIN, ["cifar10", "resnet18", "--labels", "l.csv"], ["--labels: got l.csv without --train_dir"]),
    (PRETRAIN, ["custom", "resnet18", "--train_dir", "x" * 300], ["--train_dir: got xxx", "cannot be read"]),
    (PRETRAIN, ["--gpus", "0", "1", *DIGITS], ["dataset and encoder: not given, expected before the flags"]),
    (PRETRAIN, [*DIGITS, "--batch_size", "1"], ["--batch_size: got 1", "at least 2"]),
    (PRETRAIN, [*DIGITS, "--batch_size", "auto"], ["--batch_size: got auto", "--dry_run"]),
    (PRETRAIN, [*DIGITS, "--seeds", "0", "1", "--seed", "2"], ["--seed: got 2 with --seeds 0 1"]),
    (PRETRAIN, [*DIGITS, "--seeds", "0", "1", "--run_id", "x"], ["--run_id: got x with --seeds"]),
    (PRETRAIN, [*DIGITS, "--seeds", "0", "--resume_training_from", "x"], ["--resume_training_from: got x"]),
    (LINEAR, [*DIGITS, *RUN, "--seeds", "0", "0"], ["--seeds: got 0 0", "each seed once"]),
    (PRETRAIN, [*DIGITS, "--epochs", "9" * 400], ["--epochs: got 999", "at most"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "auto"], ["got auto, expected --run_id"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "x" * 300], ["which cannot be looked up"]),
    (PRETRAIN, [*DIGITS, "--resume_training_from", "auto", "--run_id", "r", "--output_dir", "x" * 300], ["looked up"]),
    (PRETRAIN, [*DIGITS, "--epochs", "1.5"], ["--epochs: got 1.5", "an integer"]),
    (PRETRAIN, [*DIGITS, "--scheduler", "step"], ["--scheduler", "--lr_decay_steps"]),
    (PRETRAIN, [*DIGITS, "--weights_key", "teacher"], ["--weights_key: got teacher without a file in --init_from"]),
    (PRETRAIN, [*DIGITS, "--init_from", "torchvision", "--weights_key", "x"], ["--weights_key: got x without a file"]),
    (PRETRAIN, [*DIGITS, "--layer_decay", "1.1"], ["--layer_decay: got 1.1", "above 0 and at most 1"]),
    (PRETRAIN, [*DIGITS, "--backbone_lr_factor", "0"], ["--backbone_lr_factor: got 0", "above 0"]),
    (PRETRAIN, [*DIGITS, "--freeze_backbone_epochs", "-1"], ["--freeze_backbone_epochs: got -1", "at least 0"]),
    (PRETRAIN, [*DIGITS, "--renew_statistics", "never"], ["--renew_statistics: got never without --init_from"]),
    (PRETRAIN, [*DIGITS, "--min_lr", "1"], ["--min_lr: got 1", "--lr"]),
    (
        PRETRAIN,
        [*DIGITS, "--graphs", "on", "--accumulate", "2", "--exact_negatives"],
        ["--graphs: got on with --exact_negatives, expected auto or off"],
    ),
    (PRETRAIN, [*DIGITS, "--gpus", "0", "--accelerator", "cpu"], ["--gpus: got 0", "--accelerator cpu"]),
    (PRETRAIN, [*DIGITS, "--gpus", "zero"], ["--gpus: got zero"]),
    (PRETRAIN, [*DIGITS, "--gpus", "-1"], ["--gpus: got -1"]),
    (PRETRAIN, [*DIGITS, "--gaussian_prob", "0.5"], ["--gaussian_prob: got 0.5", "views of 8 pixels"]),
    (PRETRAIN, [*DIGITS, "--train_dir", "x"], ["--train_dir: got x", "digits"]),
    (LINEAR, DIGITS, ["--pretrained_feature_extractor: not given"]),
    (LINEAR, [*DIGITS, "--pretrained_feature_extracto", "x"], ["did you mean --pretrained_feature_extractor?"]),
    (LINEAR, [*DIGITS, *RUN, "--temperature", "0.1"], ["--temperature: no such flag"]),
    (LINEAR, [*DIGITS, *RUN, "--width", "16"], ["--width: no such flag"]),
    (LINEAR, [*DIGITS, *RUN, "--protocol", "fast"], ["--protocol: got fast", "standard, cached"]),
    (LINEAR, [*DIGITS, *RUN, "--protocol", "cached", "--finetune"], ["--finetune: got it with --protocol cached"]),
    (LINEAR, [*DIGITS, *RUN, "--protocol", "cached", "--dry_run"], ["--dry_run: got it with --protocol cached"]),
    (LINEAR, [*DIGITS, *RUN, "--few_shot", "--finetune"], ["--few_shot: got it with --finetune"]),
    (
        PRETRAIN,
        [*DIGITS, "--method", "byol", "--teacher_momentum", "0.99", "--teacher_momentum_end", "0.9"],
        ["--teacher_momentum_end: got 0.9", "at least the --teacher_momentum of 0.99"],
    ),
    (PRETRAIN, [*DIGITS, "--method", "lejepa", "--sigreg_weight", "1.5"], ["--sigreg_weight: got 1.5", "at most 1"]),
    (PRETRAIN, [*DIGITS, "--supervised", "--decoupled"], ["--decoupled: a flag of --method simclr, not"]),
    (PRETRAIN, [*DIGITS, "--method", "byol", "--decoupled"], ["--decoupled", "--method simclr"]),
    (PRETRAIN, [*DIGITS, "--sigreg_directions", "64"], ["--sigreg_directions", "--method lejepa"]),
    (PRETRAIN, [*DIGITS, "--method", "moco_v2", "--teacher_momentum", "1"], ["--teacher_momentum_end: got 0.99"]),
    (
        PRETRAIN,
        [*DIGITS, "--method", "dino", "--teacher_temperature_warmup_epochs", "2", "--teacher_temperature_start", "0.1"],
        ["--teacher_temperature_start: got 0.1", "at most the --teacher_temperature of 0.04"],
    ),
    (PRETRAIN, [*DIGITS, "--method", "dino", "--prototypes", "1"], ["--prototypes: got 1", "at least 2"]),
    (PRETRAIN, [*DIGITS, "--weight_decay_end", "-1"], ["--weight_decay_end: got -1", "at least 0"]),
    (PRETRAIN, [*DIGITS, "--head_batch_norm"], ["--head_batch_norm", "--method dino"]),
    (PRETRAIN, [*DIGITS, "--method", "nnclr", "--queue_size", "64"], ["--queue_size: got 64", "the 128 images of an"]),
    (PRETRAIN, [*DIGITS, "--method", "swav", "--queue_size", "64"], ["--queue_size: got 64", "the 128 images of an"]),
    (PRETRAIN, [*DIGITS, "--method", "swav", "--sinkhorn_epsilon", "0"], ["--sinkhorn_epsilon: got 0", "above 0"]),
    (PRETRAIN, [*DIGITS, "--method", "swav", "--prototypes", "1"], ["--prototypes: got 1", "at least 2"]),
    (PRETRAIN, [*DIGITS, "--prototypes", "60"], ["--prototypes", "--method swav"]),
    (LINEAR, [*DIGITS, *RUN, "--finetune", "--lr", "1", "2"], ["--finetune: got it with a grid of 2", "one --lr"]),
    (LINEAR, [*DIGITS, *RUN, "--protocol", "cached", "--optimizer", "adam"], ["--optimizer: got adam", "sgd"]),
    (LINEAR, [*DIGITS, *RUN, "--lr", "1", "2", "--scheduler", "reduce"], ["--scheduler: got reduce with a grid"]),
    (LINEAR, [*DIGITS, *RUN, "--lr", "1", "2", "--min_lr", "0.1"], ["--min_lr: got 0.1 with a grid"]),
    (LINEAR, [*DIGITS, *RUN, "--lr", "0.01", "1", "--min_lr", "0.1"], ["--min_lr: got 0.1 with a grid", "expected 0"]),
    (LINEAR, [*DIGITS, *RUN, "--lr", "0.1", "--min_lr", "1"], ["--min_lr: got 1, expected at most the --lr of 0.1"]),
    (LINEAR, [*DIGITS, *RUN, "--lr", "0.1", "-1"], ["--lr: got 0.1 -1", "one or more numbers at least 0"]),
    (LINEAR, [*DIGITS, *RUN, "--label_fraction", "10"], ["--label_fraction: got 10", "at most 1"]),
    (LINEAR, [*DIGITS, *RUN, "--protocol", "cached", "--lr", "1", "--scheduler", "reduce"], ["got reduce"]),
    (PRETRAIN, [*DIGITS, "--hold_out", "0.1"], ["--hold_out: got 0.1 without --train_dir", "digits has validation"]),
    (PRETRAIN, ["stl10", "resnet18", "--hold_out", "0.1"], ["--train_dir, expected both: stl10 has validation"]),
    (PRETRAIN, ["custom", "resnet18", "--hold_out", "0.1"], ["0.1 without --train_dir, expected both\n"]),
    (PRETRAIN, ["imagenet", "resnet18", "--hold_out", "0.1"], ["0.1 without --train_dir, expected both\n"]),
    (PRETRAIN, [*CUSTOM, "x", "--val_dir", "y", "--hold_out", "0.1"], ["--hold_out: got 0.1 with --val_dir y"]),
    (PRETRAIN, [*CUSTOM, "x", "--hold_out", "300.5"], ["--hold_out: got 300.5", "a whole number"]),
    (PRETRAIN, [*DIGITS, "--crop_size", "8", "16", "8"], ["--crop_size: got 8 16 8", "one or two integers from 4"]),
    (PRETRAIN, [*DIGITS, "--crop_size", "8", "3"], ["--crop_size: got 8 3", "from 4 to 4096"]),
    (PRETRAIN, ["stl10", "resnet18", "--crop_size", "96", "12"], ["--gaussian_prob: got 0.5 with views of 12 pixels"]),
    (PRETRAIN, [*DIGITS, "--n_crops", "1"], ["--n_crops: got 1 with --method simclr", "expected at least 2"]),
    (PRETRAIN, [*DIGITS, "--in_channels", "2"], ["--in_channels: got 2", "1 or 3"]),
    (PRETRAIN, [*DIGITS, "--in_channels", "4", "--hue", "0.1"], ["--hue: got 0.1 with --in_channels 4", "expected 0"]),
    (PRETRAIN, [*DIGITS, "--in_channels", "4", "--grey_prob", "1"], ["--grey_prob: got 1 with --in_channels 4"]),
    (PRETRAIN, [*DIGITS, "--in_channels", "4", "--saturation", "1"], ["--saturation: got 1 with --in_channels 4"]),
    (PRETRAIN, [*DIGITS, "--in_channels", "4", "--dali"], ["--loader: got dali with --in_channels 4"]),
    (PRETRAIN, [*DIGITS, "--in_channels", "4", "--cache", "jpeg256"], ["--cache: got jpeg256 with --in_channels 4"]),
    (PRETRAIN, ["cifar10", "resnet18", "--in_channels", "4"], ["--in_channels: got 4 with the archive of cifar10"]),
    (PRETRAIN, SEED_PRETRAIN, ["--data_folder: got /datasets", "nothing at that path"]),
    (LINEAR, SEED_LINEAR, ["--data_folder: got /datasets", "nothing at that path"]),
    (PRETRAIN, ["imagenet100", "resnet18"], ["--train_dir: not given"]),
    (PRETRAIN, ["custom", "resnet18", "--train_dir", "missing"], ["--train_dir: got missing", "nothing at that path"]),
]  # fmt: skip

NAMES = ("../x", "a/b", "..", ".hidden", "-x", "", "x" * 101, "latest", "dry_run", "a\0b", "m\u00fcll", "a b", "\nx")
BY_ARGV += [
    (PRETRAIN, [*DIGITS, f"{flag}={name}"], [f"{flag}: got " + name.replace("\n", " ")])
    for flag in ("--name", "--run_id")
    for name in NAMES
]
BY_ARGV.append((PRETRAIN, [*DIGITS, "--resume_training_from", "auto", "--run_id", ".."], ["--run_id: got .."]))

BY_MACHINE: list[Case] = [
    (PRETRAIN, [*DIGITS, "--gpus", "0"], ["--gpus: got 0", "no GPU", "--devices 1 --accelerator cpu"]),
    (PRETRAIN, [*DIGITS, "--accelerator", "gpu"], ["--accelerator: got gpu", "no GPU"]),
    (PRETRAIN, [*DIGITS, "--graphs", "on", "--accelerator", "cpu"], ["--graphs: got on", "need a GPU"]),
    (PRETRAIN, [*DIGITS, "--batch_size", "1438"], ["--batch_size: got 1438", "1437 training images"]),
    (
        PRETRAIN,
        [*DIGITS, "--batch_size", "512", "--accumulate", "4", "--exact_negatives"],
        ["--batch_size: got 512 on 1 process(es) with --accumulate 4, 2048 images a step, expected", "1437"],
    ),
    (PRETRAIN, [*DIGITS, "--warmup_epochs", "13"], ["--warmup_epochs: got 13"]),
    (PRETRAIN, [*DIGITS, "--num_nodes", "2", "--accelerator", "cpu"], ["--num_nodes: got 2", "torchrun.sh"]),
    (PRETRAIN, [*DIGITS, "--lars"], ["--lars: got it with --optimizer adamw", "expected --optimizer sgd"]),
    (PRETRAIN, [*DIGITS, "--small_scale", "0.1"], ["--small_scale: got 0.1", "two numbers"]),
    (PRETRAIN, [*DIGITS, "--small_scale", "0.2", "0.1"], ["--small_scale: got 0.2 0.1", "two numbers in order"]),
    (PRETRAIN, ["stl10", "resnet18", "--multicrop", "--small_crop_size", "12"], ["views of 12 pixels"]),
    (PRETRAIN, [*DIGITS, "--dali", "--resident", "on"], ["--resident: got on with --loader dali", "expected --loader"]),
    (PRETRAIN, [*DIGITS, "--bad_images", "trust", "--dali"], ["--bad_images: got trust with --loader dali", "fast"]),
    (PRETRAIN, [*DIGITS, "--bad_images", "trust", "--cache", "raw256"], ["got trust with --cache raw256", "skip"]),
    (PRETRAIN, [*DIGITS, "--bad_images", "trust", "--resident", "on"], ["got trust with --resident on", "skip"]),
    (PRETRAIN, [*DIGITS, "--shuffle", "shards"], ["--shuffle: got shards with digits", "expected tar/GLOB, or"]),
    (PRETRAIN, [*DIGITS, "--dali", "--dali_device", "gpu"], ["--dali_device: got gpu", "expected cpu"]),
    (PRETRAIN, ["digits", "timm/vit_tiny_patch16_244"], ["encoder: got timm/vit_tiny", "did you mean timm/vit_tiny"]),
    (PRETRAIN, ["digits", "timm/vit_tiny_patch16_224"], ["--crop_size: got views of 8 pixels", "patch size (16)"]),
    (PRETRAIN, ["digits", "timm/test_vit", "--crop_size", "16", "24"], ["--crop_size: got views of 16 x 24 pixels"]),
    (PRETRAIN, [*DIGITS, "--cache", "raw256", "--crop_size", "8", "300"], ["--cache: got raw256 with views of 300"]),
    (PRETRAIN, ["digits", "timm/test_vit", "--patch_size", "3"], ["--crop_size: got views of 8 pixels", "(3)"]),
    (PRETRAIN, ["digits", "timm/resnet18", "--patch_size", "4"], ["--patch_size: got 4", "patches cannot be set"]),
    (PRETRAIN, ["digits", "timm/vgg11", "--drop_path", "0.1"], ["--drop_path: got 0.1", "branches cannot be set"]),
    (
        PRETRAIN,
        ["digits", "timm/poolformer_s12", "--crop_size", "32", "--layer_decay", "0.5"],
        ["--layer_decay: got 0.5 with timm/poolformer_s12", "expected 1"],
    ),
    (LINEAR, ["digits", "timm/resnet19", *RUN], ["encoder: got timm/resnet19", "timm/resnet18"]),
    (PRETRAIN, [*DIGITS, "--precision", "16-mixed", "--accelerator", "cpu"], ["--precision: got 16-mixed on a CPU"]),
    (PRETRAIN, ["digits", "timm/resnet18", "--init_from", "torchvision"], ["--init_from: got torchvision with timm"]),
    (PRETRAIN, [*DIGITS, "--cache", "jpeg256", "--crop_size", "300"], ["--cache: got jpeg256 with views of 300"]),
    (PRETRAIN, [*DIGITS, "--init_from", "x" * 300], ["--init_from: got xxx", "which cannot be looked up"]),
    (PRETRAIN, [*DIGITS, "--init_from", "x"], ["--init_from: got x", "there is no x"]),
    (LINEAR, [*DIGITS, *RUN], ["--pretrained_feature_extractor: got run", "no run"]),
]  # fmt: skip

FLAT, EVALUATE, RESUME = [*CUSTOM, "GIVEN/flat", "--labels"], "--pretrained_feature_extractor", "--resume_training_from"
BY_FILES: list[Case] = [  # GIVEN is the folder of `write_given`
    (PRETRAIN, [*CUSTOM, "t", "--data_folder", "GIVEN/empty"], ["--data_folder: got ", "there is an empty folder"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--val_dir", "GIVEN/other"], ["--val_dir", "with class z"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--val_dir", "GIVEN/nowhere"], ["--val_dir: got ", "there is nothing"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--val_dir", "GIVEN/flat"], ["--val_dir: got ", "there is no accuracy"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/flat", "--val_dir", "GIVEN/train"], ["--val_dir: got ", "training images have none"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--val_dir", "GIVEN/bad"], ["--val_dir: got ", "none of its files can be"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/no_images"], ["--train_dir", "there are none"]),
    (PRETRAIN, [*CUSTOM, "tar/GIVEN/x*.tar"], ["--train_dir: got tar/", "expected a glob that matches .tar files"]),
    (PRETRAIN, [*CUSTOM, "tar/GIVEN"], ["--train_dir: got tar/", ", a folder, expected a glob such as tar/"]),
    (PRETRAIN, [*CUSTOM, "tar/GIVEN/page.tar"], ["--train_dir: got ", "expected a shard; there is nothing at"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--val_dir", "tar/GIVEN/half.tar"], ["--val_dir: got ", "it is truncated"]),
    (
        PRETRAIN,
        [*CUSTOM, "GIVEN/train", "--label_column", "x"],
        ["--label_column: got x", "expected hf/... or"],
    ),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--remote_cache", "5"], ["--remote_cache: got 5", "expected remote shards"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/no_images_in_classes"], ["--train_dir", "in its 1 class folders", "there are none"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--in_channels", "4"], ["none of its", "JPEG, expected a TIFF or .npy file"]),
    (PRETRAIN, [*CUSTOM, "GIVEN/bad"], ["--train_dir", "none of its files can be decoded"]),
    (
        PRETRAIN,
        [*CUSTOM, "GIVEN/half_bad", "--bad_images", "error"],
        ["--bad_images: got error", "0.jpg", "not an image"],
    ),
    (PRETRAIN, [*CUSTOM, "GIVEN/train", "--cache", "raw256", "--cache_dir", "GIVEN/page"], ["--cache_dir: got "]),
    (PRETRAIN, [*CUSTOM, "GIVEN/single", "--hold_out", "0.5"], ["--hold_out: got 0.5 of 2 images", "of their class"]),
    (PRETRAIN, [*FLAT, "x" * 300], ["--labels: got xxx", "cannot be read"]),
    (PRETRAIN, [*FLAT, "/proc/self/mem"], ["--labels: got /proc/self/mem, which cannot be read as CSV"]),
    (PRETRAIN, [*FLAT, "GIVEN/one_column"], ["--labels", "two columns"]),
    (PRETRAIN, [*FLAT, "GIVEN/others"], ["--labels", "it names none of them"]),
    (PRETRAIN, [*FLAT, "GIVEN/blank"], ["--labels", "it names none of them"]),
    (PRETRAIN, [*FLAT, "GIVEN/utf16"], ["--labels"]),
    (PRETRAIN, [*FLAT, "GIVEN/two_labels"], ["--labels", "1.jpg has a and b"]),
    (PRETRAIN, [*FLAT, "GIVEN/open_quote"], ["--labels", "cannot be read as CSV (unexpected end of data)"]),
    (PRETRAIN, [*FLAT, "GIVEN/long"], ["--labels", "cannot be read as CSV (field larger than"]),
    (LINEAR, [*CUSTOM, "GIVEN/flat", EVALUATE, "GIVEN/ours.ckpt"], ["dataset: got custom without labels"]),
    (LINEAR, [*CUSTOM, "GIVEN/single", EVALUATE, "GIVEN/ours.ckpt", "--lr", "1", "2"], ["--lr: got a grid"]),
    (LINEAR, ["digits", "resnet50", EVALUATE, "GIVEN/ours.ckpt"], ["encoder: got resnet50, expected resnet18"]),
    (LINEAR, [*DIGITS, EVALUATE, "GIVEN/ours.ckpt", "--in_channels", "1"], ["--in_channels: got 1, expected 3"]),
    (LINEAR, [*DIGITS, EVALUATE, "GIVEN/part.ckpt"], ["expected all weights of resnet18; missing: 99 ("]),
    (LINEAR, [*DIGITS, EVALUATE, "GIVEN/two.pth", "--weights_key", "x"], ["--weights_key: got x", "student, teacher"]),
    (PRETRAIN, [*DIGITS, "--init_from", "GIVEN/momentum.pth"], ["has only encoder_k, a momentum encoder"]),
    (LINEAR, [*DIGITS, EVALUATE, "GIVEN/nan.ckpt"], ["expected finite weights", "backbone.bn1.weight (4 NaN of 4 "]),
    (LINEAR, [*DIGITS, EVALUATE, "GIVEN/huge.ckpt"], ["expected weights that give finite features"]),
    (PRETRAIN, [*DIGITS, "--init_from", "GIVEN/ours.ckpt"], ["has 4 outputs, expected --width 4"]),
    (PRETRAIN, [*DIGITS, "--init_from", "GIVEN/ours.ckpt", "--stem", "large"], ["expected --stem small"]),
    (PRETRAIN, ["digits", "resnet50", "--init_from", "GIVEN/ours.ckpt"], ["of resnet50; ", "they are of resnet18"]),
    (PRETRAIN, ["digits", TINY, "--crop_size", "32", "--init_from", "GIVEN/two.pth"], ["try another encoder"]),
    (LINEAR, ["digits", TINY, "--crop_size", "32", EVALUATE, "GIVEN/two.pth"], ["try another encoder"]),
    (PRETRAIN, [*DIGITS, "--output_dir", "GIVEN/page"], ["--output_dir: got "]),
    (PRETRAIN, [*DIGITS, "--output_dir", "GIVEN/mine"], ["--output_dir: got ", "latest is a folder"]),
    (PRETRAIN, [*DIGITS, "--output_dir", "GIVEN", "--run_id", "run"], ["--run_id: got run, expected a new name"]),
    (PRETRAIN, [*DIGITS, RESUME, "GIVEN/run_of_linear"], ["a run of another program or version"]),
    (PRETRAIN, [*DIGITS, RESUME, "GIVEN/run", "--lr", "7"], ["--lr: got 7, expected 0.001"]),
    (PRETRAIN, [*DIGITS, RESUME, "GIVEN/run", "--run_id", "x"], ["--run_id: got x with"]),
    (PRETRAIN, [*DIGITS, RESUME, "GIVEN/no_config"], ["config.json cannot be read (FileNotFoundError)"]),
    (PRETRAIN, [*DIGITS, RESUME, "GIVEN/odd_method"], ["--method: got 3, expected one of"]),
    (PRETRAIN, [*DIGITS, RESUME, "GIVEN/odd_rate"], ["--lr: got {}, expected a number"]),
    (PRETRAIN, [*DIGITS, RESUME, "GIVEN/odd_table"], ["expected metrics.csv as the run wrote it (KeyError: 'step')"]),
]
for path in ("empty", "page", "pipe", "dangling", "/dev/null"):
    path = f"GIVEN/{path}" if path[0] != "/" else path
    BY_FILES += [(PRETRAIN, [*CUSTOM, path], ["--train_dir: got ", "expected a folder of images; there is "])]
    BY_FILES += [(PRETRAIN, [*CUSTOM, "GIVEN/train", "--val_dir", path], ["--val_dir: got ", "there is "])]
    BY_FILES += [(PRETRAIN, [*CUSTOM, "x", "--data_folder", path], ["--data_folder: got ", "there is "])]
    if path != "GIVEN/page":
        BY_FILES += [(PRETRAIN, [*FLAT, path], ["--labels: got ", "expected a CSV file; there is "])]

TEXTS = {
    "page": b"<html>\n</html>\n", "one_column": b"1.jpg\n", "others": b"2.jpg,a\n", "blank": b"",
    "utf16": "1.jpg,a\n".encode("utf-16"), "two_labels": b"1.jpg,a\n1.jpg,b\n", "open_quote": b'1.jpg,"a\n',
    "long": b"1.jpg," + b"x" * 200_000, "empty.ckpt": b"", "page.ckpt": b"<html></html>", "page.safetensors": b"<html>",
    "zip.ckpt": b"PK\x03\x04 truncated", "table.ckpt": b"epoch,step,loss\n1,2,3\n", "error.ckpt": b"error: x\n",
}  # fmt: skip
NO_WEIGHTS = [name for name in TEXTS if "." in name] + [
    "half.ckpt",
    "code.ckpt",
    "list.ckpt",
    "pipe",
    "dangling",
    "empty",
]
for file in NO_WEIGHTS:
    for program, flag in ((LINEAR, EVALUATE), (PRETRAIN, "--init_from"), (PRETRAIN, RESUME)):
        BY_FILES.append((program, [*DIGITS, flag, f"GIVEN/{file}"], [f"{flag}: got "]))

METADATA: dict[str, Any] = {  # of a checkpoint: the fields that an evaluation reads
    "schema": 1,
    "program": "Pretrain",
    "config": {
        "views": {"crop_size": 8},
        "data": {"in_channels": 3},
        "backbone": {"encoder": "resnet18", "width": 4},
        "method": {"method": "simclr"},
    },
    "classes": ("a", "b"),
    "norm": ((0.5,) * 3, (0.5,) * 3),
}
INVALID_METADATA = {
    "metadata_of_another_type": 1,
    "no_norm": METADATA | {"norm": None},
    "no_size": METADATA | {"config": {}},
    "unknown_field": METADATA | {"config": METADATA["config"] | {"backbone": {"new": 1}}},
    "later_schema": METADATA | {"schema": 99},
    "of_linear": METADATA | {"program": "Linear"},
}
for file in INVALID_METADATA:
    BY_FILES.append((LINEAR, [*DIGITS, EVALUATE, f"GIVEN/{file}.pth"], ["is not a checkpoint of main_contrastive.py"]))

CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {  # of a run's checkpoint, and part of the message
    "half": (lambda saved: None, "expected a checkpoint to resume from; "),
    "no_metadata": (lambda saved: saved.pop("cl"), "last.ckpt is incomplete or damaged (KeyError)"),
    "no_optimizer": (lambda saved: saved.pop("optimizer_states"), "last.ckpt is incomplete or damaged (KeyError)"),
    "other_metadata": (lambda saved: saved.update(cl=[1]), "last.ckpt is incomplete or damaged (TypeError)"),
    "later": (lambda saved: saved["cl"].update(schema=99), "--resume_training_from: got schema 1, expected 99"),
    "images": (lambda saved: saved["cl"].update(images=9), "--train_dir: got 1437 images, expected 9 as in "),
    "classes": (lambda saved: saved["cl"].update(classes=()), "--train_dir: got 10 classes, expected 0 as in "),
    "order": (lambda saved: saved["cl"].pop("order"), "whose images come in the order of an earlier version"),
    "processes": (lambda saved: saved["cl"].update(processes=2), "expected --batch_size "),
    "width": (lambda saved: saved["cl"]["config"]["backbone"].update(width=8), "--width: got 64 from config.json"),
    "stem": (lambda saved: saved["cl"]["config"]["backbone"].update(stem="large"), "--stem: got auto from config.json"),
    "weights": (lambda saved: None, "expected the weights of this version; "),
}
BY_FILES += [(PRETRAIN, [*DIGITS, RESUME, f"GIVEN/run_{name}"], [message]) for name, (_, message) in CHANGES.items()]


class HostilePickle:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("it_ran"),)


def write_given(folder: Path) -> None:
    """Write unusable files and folders, and a few good ones."""
    for name in ("empty", "no_images", "no_images_in_classes/a", "bad", "half_bad", "flat", "mine/latest"):
        (folder / name).mkdir(parents=True)
    for name, content in TEXTS.items():
        (folder / name).write_bytes(content)
    (folder / "no_images/notes.txt").write_text("none")
    for name in ("bad", "half_bad"):
        (folder / name / "0.jpg").write_bytes(b"\xff\xd8\xff damaged")
    plain(3).save(folder / "half_bad/1.jpg")
    plain(3).save(folder / "flat/1.jpg")
    plain(4).save(folder / "flat/2.png")
    write_classes(folder / "train", {"a": 2, "b": 2})
    write_classes(folder / "other", {"a": 2, "z": 2})
    write_classes(folder / "single", {"a": 1, "b": 1})
    write_tar(folder / "half.tar", [("1.jpg", bytes(5000))])
    os.truncate(folder / "half.tar", 3000)
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to(folder / "nowhere")
    _write_weights(folder)
    _write_runs(folder)


def _write_weights(folder: Path) -> None:
    weights = build_backbone(BackboneConfig("resnet18", width=4), 8).state_dict()
    torch.save(
        {"cl": METADATA, "state_dict": {f"backbone.{key}": value for key, value in weights.items()}},
        folder / "ours.ckpt",
    )
    torch.save({"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, folder / "part.ckpt")
    torch.save({"student": weights, "teacher": weights}, folder / "two.pth")
    torch.save({"encoder_k": weights}, folder / "momentum.pth")
    for name, factor in (("nan", torch.nan), ("huge", 1e38)):
        changed = weights | {"bn1.weight": torch.ones(4) * factor}
        state = {f"backbone.{key}": value for key, value in changed.items()}
        torch.save({"cl": METADATA, "state_dict": state}, folder / f"{name}.ckpt")
    torch.save([1], folder / "list.ckpt")
    torch.save({"state_dict": HostilePickle()}, folder / "code.ckpt")
    (folder / "half.ckpt").write_bytes(_half(folder / "ours.ckpt"))
    for name, metadata in INVALID_METADATA.items():
        torch.save({"cl": metadata, "state_dict": {}}, folder / f"{name}.pth")


def _write_runs(folder: Path) -> None:
    """Write interrupted runs of `DIGITS`."""
    resolved = on_devices(parse(Pretrain, DIGITS))[0]
    splits = load(resolved.config.data)
    for name in ("run", "no_config", "odd_method", "odd_rate", "odd_table", *(f"run_{change}" for change in CHANGES)):
        (folder / name).mkdir()
        saved = {
            "cl": checkpoint_metadata(resolved.config, splits),
            "global_step": 1,
            "state_dict": {},
            "optimizer_states": [{}],
        }
        if name.startswith("run_"):
            change, _ = CHANGES[name.removeprefix("run_")]
            change(saved)
        torch.save(saved, folder / name / "last.ckpt")
        _write_config(folder / name, resolved, splits, "CPU")
    (folder / "run_half/last.ckpt").write_bytes(_half(folder / "run_half/last.ckpt"))
    (folder / "no_config/config.json").unlink()
    (folder / "odd_table/metrics.csv").write_text("epoch;step\n1;5\n")
    for name, old, new in (("odd_method", '"simclr"', "3"), ("odd_rate", "0.001", "{}")):
        path = folder / name / "config.json"
        path.write_text(path.read_text().replace(old, new))
    (folder / "run_of_linear").mkdir()
    (folder / "run_of_linear/last.ckpt").write_bytes(b"")
    _write_config(folder / "run_of_linear", parse(Linear, [*DIGITS, *RUN]), splits, "CPU")


def _half(file: Path) -> bytes:
    content = file.read_bytes()
    return content[: len(content) // 2]
