"""The commands and their options."""

from __future__ import annotations

from jsonargparse import ArgumentParser

import dpaat
from dpaat.config import TrainConfig
from dpaat.examples import (
    BENCHMARK_EXAMPLES,
    CHECK_EXAMPLES,
    COMPARE_EXAMPLES,
    EVALUATE_EXAMPLES,
    EXPLAIN_EXAMPLES,
    EXPORT_EXAMPLES,
    MAIN_EXAMPLES,
    PREDICT_EXAMPLES,
    PROFILE_EXAMPLES,
    REPORT_EXAMPLES,
    TRAIN_EXAMPLES,
)
from dpaat.parsing import Parser


def make_parser() -> ArgumentParser:
    """Make the parser of all commands; it raises `ArgumentError` instead of leaving the process."""
    parser = Parser(
        "Train medical image classifiers that stay accurate and withstand adversarial perturbations, and prove it.",
        MAIN_EXAMPLES,
        group=True,
        prog="dpaat",
        version=dpaat.__version__,
    )
    commands = parser.add_subcommands(required=True, metavar="COMMAND")
    commands.add_subcommand("quickstart", _quickstart_parser(), help="three methods on embedded images, side by side")
    commands.add_subcommand("train", _train_parser(), help="train a classifier into a run folder")
    commands.add_subcommand("evaluate", _evaluate_parser(), help="measure a run, clean and under attack")
    commands.add_subcommand("explain", _explain_parser(), help="where a run looks, in numbers: maps and masks")
    commands.add_subcommand("compare", _compare_parser(), help="compare evaluated runs, with intervals")
    commands.add_subcommand("benchmark", _benchmark_parser(), help="train, evaluate and compare a grid of recipes")
    commands.add_subcommand("profile", _profile_parser(), help="where a training step's time goes, and the run's time")
    commands.add_subcommand("predict", _predict_parser(), help="classify images with a run")
    commands.add_subcommand("report", _report_parser(), help="write one HTML page about one or more runs")
    commands.add_subcommand("export", _export_parser(), help="write a run's network as ONNX and safetensors")
    data = Parser("Look into a dataset.", group=True)
    commands.add_subcommand("data", data, help="look into a dataset")
    commands.add_subcommand("list", _list_parser(), help="list methods, models, attacks, datasets, maps or grids")
    data.add_subcommands(required=True, metavar="COMMAND").add_subcommand(
        "check", _data_check_parser(), help="print what is in it, and what is wrong with it"
    )
    return parser


def _train_parser() -> ArgumentParser:
    parser = Parser("Train a classifier and leave a run folder.", TRAIN_EXAMPLES)
    parser.add_argument("--config", action="config", help="YAML file with any of these options, such as a run's own")
    parser.add_class_arguments(TrainConfig, as_group=False)
    parser.add_argument("--out", type=str | None, default=None, help="run folder to make (required)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, by its own configuration")
    parser.add_argument("--stop_after", type=int | None, default=None, help="end this call after so many epochs")
    parser.add_argument("--cache", type=str | None, default=None, help="folder for decoded images")
    return parser


def _profile_parser() -> ArgumentParser:
    parser = Parser("Measure where the time of a training step goes, and estimate the whole run.", PROFILE_EXAMPLES)
    parser.add_argument("--config", action="config", help="YAML file with any of these options, such as a run's own")
    parser.add_class_arguments(TrainConfig, as_group=False)
    parser.add_argument("--batches", type=int, default=9, help="how many batches to measure")
    parser.add_argument("--out", type=str | None, default=None, help="JSON file to write")
    parser.add_argument("--cache", type=str | None, default=None, help="folder for decoded images")
    return parser


def _export_parser() -> ArgumentParser:
    parser = Parser(
        "Write a run's network as ONNX and safetensors, and check that they agree with it.", EXPORT_EXAMPLES
    )
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("--out", type=str, default="export", help="folder to write into")
    parser.add_argument("--images", type=int, default=100, help="how many test images to compare on")
    return parser


def _evaluate_parser() -> ArgumentParser:
    parser = Parser(
        "Measure a run on clean images and under attack at fixed radii; results go to its evaluation.json.",
        EVALUATE_EXAMPLES,
    )
    parser.add_argument("run", type=str | None, nargs="?", default=None, help="run folder; or see --weights")
    parser.add_argument("--suite", type=str | None, default=None, help="standard, masking, corruptions; with commas")
    parser.add_argument("--attack", type=str, default="pgd", help="comma-separated; see `dpaat list attacks`")
    parser.add_argument("--ensemble", type=str | None, default=None, help="attacks on what those leave standing")
    parser.add_argument("--steps", type=str | None, default=None, help="budget: 20, or square=1000,apgd-t=50")
    parser.add_argument("--eps", type=str | None, default=None, help="radii from small to large, comma-separated")
    parser.add_argument("--norm", type=str, default="linf", help="linf or l2")
    parser.add_argument("--data", type=str | None, default=None, help="another dataset, or the run's own elsewhere")
    parser.add_argument(
        "--window",
        type=str | None,
        default=None,
        help="values of --data that become black and white; see `dpaat train --help`",
    )
    parser.add_argument("--split", type=str, default="test", help="train, val, test or all")
    parser.add_argument("--max_samples", type=int | None, default=None, help="a seeded stratified draw of so many")
    parser.add_argument("--batch_size", type=int, default=128, help="images per batch")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--precision", type=str, default="32", help="32 or bf16, for the search; verdicts are in 32")
    parser.add_argument("--seed", type=int, default=0, help="of random starts and of the draw")
    parser.add_argument("--source", type=str | None, default=None, help="run whose model makes the transfer images")
    parser.add_argument("--model", type=str | None, default=None, help="timm model of --weights")
    parser.add_argument("--weights", type=str | None, default=None, help="weights from elsewhere; needs --data, --out")
    parser.add_argument("--weights_key", type=str | None, default=None, help="which set of --weights, of several")
    parser.add_argument("--classes", type=str | None, default=None, help="outputs of --weights in their order: a,b,c")
    parser.add_argument(
        "--image_size", type=int | None, default=None, help="pixels at the side, with --weights; default 64"
    )
    parser.add_argument(
        "--stem", type=str | None, default=None, help="of --weights: auto, original or small; auto is as trained"
    )
    parser.add_argument("--mean", type=str | None, default=None, help="of --weights: 1 or C numbers; default timm's")
    parser.add_argument("--std", type=str | None, default=None, help="of --weights: 1 or C numbers; default timm's")
    parser.add_argument(
        "--input_range", type=str | None, default=None, help="of --weights: such as 0-255, in which mean and std count"
    )
    parser.add_argument("--out", type=str | None, default=None, help="folder for the results, with --weights")
    return parser


def _predict_parser() -> ArgumentParser:
    parser = Parser("Classify images with a run; probabilities go to a CSV file.", PREDICT_EXAMPLES)
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("images", type=str, nargs="+", help="image files, folders of images, or one dataset spec")
    parser.add_argument("--out", type=str, default="predictions.csv", help="CSV file to write")
    parser.add_argument(
        "--window", type=str | None, default=None, help="values that become black and white; see `dpaat train --help`"
    )
    parser.add_argument("--batch_size", type=int, default=128, help="images per batch")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser


def _explain_parser() -> ArgumentParser:
    parser = Parser(
        "Compute attribution maps of a run on clean images and under attack, and score them against lesion masks, "
        "against each other and against chance; numbers go to its interpretability.json, maps to interpretability/.",
        EXPLAIN_EXAMPLES,
    )
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("--maps", type=str | None, default=None, help="comma-separated, default all; `dpaat list maps`")
    parser.add_argument("--layer", type=str | None, default=None, help="for grad-cam; default the deepest of 8 x 8")
    parser.add_argument("--eps", type=str | None, default=None, help="radii, comma-separated; default 4/255, in L2 1")
    parser.add_argument("--steps", type=int, default=20, help="of PGD")
    parser.add_argument("--norm", type=str | None, default=None, help="linf or l2; default the run's")
    parser.add_argument("--data", type=str | None, default=None, help="another dataset, or the run's own elsewhere")
    parser.add_argument(
        "--window",
        type=str | None,
        default=None,
        help="values of --data that become black and white; see `dpaat train --help`",
    )
    parser.add_argument("--split", type=str, default="test", help="train, val, test or all")
    parser.add_argument("--max_samples", type=int, default=100, help="a seeded draw of so many, some of every class")
    parser.add_argument("--batch_size", type=int, default=50, help="images per batch")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, the attack and the sanity check")
    return parser


def _compare_parser() -> ArgumentParser:
    parser = Parser(
        "Compare evaluated runs image by image with the first; runs that differ in seed or fold only are pooled.",
        COMPARE_EXAMPLES,
    )
    parser.add_argument("runs", type=str, nargs="+", help="run folders, those of the reference first")
    parser.add_argument("--out", type=str, default="comparison.json", help="JSON file to write")
    return parser


def _benchmark_parser() -> ArgumentParser:
    parser = Parser(
        "Train and evaluate every cell of a grid, several side by side, and sum up what is finished. What is done is "
        "not repeated, what failed is tried again, and one failure does not stop the rest.",
        BENCHMARK_EXAMPLES,
    )
    parser.add_argument("grid", type=str, help="YAML file (docs/benchmark.md), or one of `dpaat list grids`")
    parser.add_argument(
        "--data", type=str, action="append", default=None, help="in place of the grid's; may be repeated"
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder to make; default runs/ and the grid's name"
    )
    parser.add_argument("--workers", type=int | None, default=None, help="cells side by side; default the grid's")
    parser.add_argument("--only", type=str, default="*", help="run the cells whose names match this pattern")
    parser.add_argument(
        "--known", type=str | None, default=None, help="folder of outcomes computed elsewhere: summed up, not run again"
    )
    parser.add_argument(
        "--reference", type=str | None, default=None, help="recipe to compare the others with; default the grid's"
    )
    parser.add_argument(
        "--models", type=str | None, default=None, help="those of the grid's models to keep, with commas; default all"
    )
    parser.add_argument("--summary_only", action="store_true", help="sum up what is finished or known, run nothing")
    parser.add_argument("--dry_run", action="store_true", help="list the cells and what each is expected to cost")
    return parser


def _report_parser() -> ArgumentParser:
    parser = Parser("Write one self-contained HTML page about one or more runs, or a model card.", REPORT_EXAMPLES)
    parser.add_argument("runs", type=str, nargs="+", help="run folders")
    parser.add_argument(
        "--out", type=str | None, default=None, help="file to write; default report.html, model-card.md"
    )
    parser.add_argument("--format", type=str, default="html", help="html for the page, md for a model card")
    parser.add_argument(
        "--no_images", action="store_true", help="show no images of the data, which then need not be there"
    )
    return parser


def _data_check_parser() -> ArgumentParser:
    parser = Parser("Print classes, groups, splits, leaks, duplicate and unreadable files.", CHECK_EXAMPLES)
    parser.add_argument("data", type=str, help="dataset, as for `dpaat train --data`")
    parser.add_argument("--image_size", type=int, default=64, help="pixels at the side")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--fold", type=str | None, default=None, help="k/K")
    parser.add_argument("--window", type=str, default="auto", help="as for `dpaat train`")
    parser.add_argument("--splits", type=str | None, default=None, help="CSV with columns id and split")
    parser.add_argument("--export", type=str | None, default=None, help="write the splits to this CSV")
    return parser


def _list_parser() -> ArgumentParser:
    parser = Parser("List what can be named on the command line.")
    parser.add_argument("what", type=str, help="methods, models, attacks, datasets, maps or grids")
    parser.add_argument("filter", type=str, nargs="?", default="", help="only names that contain this")
    return parser


def _quickstart_parser() -> ArgumentParser:
    parser = Parser(
        "Train standard, fixed-radius and DPAAT models on the embedded synthetic images (or --data), evaluate them "
        "and write a report. Takes a few minutes on two cores."
    )
    parser.add_argument("--data", type=str, default="synthetic", help="dataset, as for `dpaat train --data`")
    parser.add_argument("--epochs", type=int | None, default=None, help="passes over the training set")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--out", type=str | None, default=None, help="folder to make; default runs/quickstart")
    return parser
