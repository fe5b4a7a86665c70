"""The commands: each is a function whose signature and docstring are its options and its help."""

import dataclasses
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from dpaat.config import PLACE, TrainConfig
from dpaat.errors import UserError
from dpaat.measurement import EvaluateConfig, ExplainConfig, Foreign, Inputs, Reading
from dpaat.own_code import is_own
from dpaat.parsing import Changes


def train(
    config: TrainConfig,
    out: Path | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    cache: Path | None = None,
    *,
    _explicit: Callable[[], dict[str, Any]],
    _argv: list[str],
) -> None:
    """Train a classifier and leave a run folder.

    Args:
        config: what to train on what.
        out: run folder to make (required).
        resume: go on with the run in --out, by its own configuration.
        stop_after: end this call after so many epochs.
        cache: folder for decoded images.

    Examples:
        dpaat train --data ham10000:DIR --image-size 64 --model resnet18 --method dpaat --out runs/ham
        dpaat train --data folder:photos --method pgd --eps 4/255 --clean-weight 0.5 --out runs/pgd
        dpaat train --config runs/ham/config.yaml --seed 1 --out runs/ham-seed1
        dpaat train --resume --out runs/ham
    """
    if out is None:
        raise UserError("out: name the run folder to make, such as --out runs/ham")
    given = _explicit() if resume else {}
    if resume and (out / "config.yaml").is_file():
        config = _begun(out, {name: value for name, value in given.items() if name in vars(config)})
    from dpaat import training

    training.train(
        config,
        out,
        resume=resume,
        data=given.get("data"),
        stop_after=stop_after,
        cache_dir=cache,
        command=shlex.join(["dpaat", *_argv]),
        console=_console(),
    )


def _begun(out: Path, given: dict[str, Any]) -> TrainConfig:
    """How a run was begun, at the place that is given now; refuses other options than it was begun with."""
    from dpaat.config import complete
    from dpaat.runs import read_config

    begun = read_config(out / "config.yaml")
    same_method = given.get("method", begun.method) == begun.method
    kept = {"options": begun.options if same_method else {}, "trainer": begun.trainer}
    nested = {name: values | given.get(name, {}) for name, values in kept.items()}
    wanted = complete(dataclasses.replace(begun, **given | nested))
    for name in given:
        before, now = getattr(begun, name), getattr(wanted, name)
        # The data may have been moved: the training looks at the images.
        if before != now and name not in (*PLACE, "data") and (name != "eps" or begun.radius != wanted.radius):
            raise UserError(
                f"{out}: was begun with {name} {before!r}, not {now!r}; resume it without that option, or train anew "
                "into another --out"
            )
    return dataclasses.replace(begun, **{name: given[name] for name in PLACE if name in given})


def evaluate(
    run: Path | None = None, /, *, config: EvaluateConfig, inputs: Inputs, foreign: Foreign, source: Path | None = None
) -> None:
    """Measure a run on clean images and under attack at fixed radii; results go to its evaluation.json.

    Args:
        run: run folder; or see --weights.
        config: attacks, radii and images.
        inputs: other images.
        foreign: weights from elsewhere.
        source: run whose model makes the transfer images.

    Examples:
        dpaat evaluate runs/ham                                        PGD-20 at 1, 2, 4 and 8/255
        dpaat evaluate runs/ham --suite standard                       the ensemble of attacks; run it again if interrupted
        dpaat evaluate runs/ham --suite standard,masking,corruptions --max-samples 200 --steps square=1000
        dpaat evaluate runs/ham --attack fgsm,apgd-dlr --steps 50 --eps 2/255,4/255
        dpaat evaluate runs/ham --attack apgd-ce --ensemble apgd-t,square      the second on what the first leaves standing
        dpaat evaluate runs/ham --attack transfer --source runs/standard
        dpaat evaluate runs/ham --data folder:other-clinic --split all
        dpaat evaluate --model resnet18 --weights mine.pth --data folder:images --image-size 64 --out results/mine
    """  # noqa: E501 - an example is one line
    from dpaat.evaluation import analyses_summary, evaluation_table
    from dpaat.evaluation import evaluate as measure
    from dpaat.evaluation.elsewhere import subject_from_elsewhere, subject_of_folder
    from dpaat.evaluation.run import resolve_device, source_of
    from dpaat.models import describe_weights
    from dpaat.precision import emulation

    inputs = dataclasses.replace(inputs, device=resolve_device(inputs.device))
    if run is not None:
        if idle := [name for name, value in vars(foreign).items() if value != getattr(Foreign, name)]:
            raise UserError(
                f"evaluate: --{idle[0].replace('_', '-')} belongs to weights from elsewhere; a run folder needs none"
            )
        subject = subject_of_folder(run, data=inputs.data, window=inputs.window, device=inputs.device, progress=True)
    else:
        for name in ("model", "weights", "data", "out"):
            if name == "weights" and is_own(foreign.model):
                continue
            if {**vars(foreign), "data": inputs.data}[name] is None:
                raise UserError(f"evaluate: name a run folder, or weights from elsewhere with --{name}")
        subject = subject_from_elsewhere(foreign, inputs, seed=config.seed, progress=True)
        _say(describe_weights(subject.head["network"]) or "")
    other = None if source is None else source_of(subject, source, inputs.device)
    slow = emulation(config.precision, inputs.device)
    _warn([*subject.warnings, *([slow] if slow else [])])
    document = measure(subject, config, source=other, device=inputs.device)
    _console().print(evaluation_table(document), analyses_summary(document))
    _say(f"written to {subject.folder / 'evaluation.json'}")


def predict(
    run: Path, images: list[str], /, *, reading: Reading, batch_size: int = 128, out: Path = Path("predictions.csv")
) -> None:
    """Classify images with a run; probabilities go to a CSV file.

    Args:
        run: run folder, or what `dpaat export` wrote.
        images: image files, folders of images, or one dataset spec.
        reading: how the images are read.
        batch_size: images per batch.
        out: CSV file to write.

    Examples:
        dpaat predict runs/ham photo1.jpg photo2.jpg --out predictions.csv
        dpaat predict runs/ham folder-of-photos --out predictions.csv
    """
    from dpaat.evaluation import predict as classify

    what: Any = images[0] if len(images) == 1 else images
    found = classify(run, what, out, batch_size=batch_size, console=_console(), **vars(reading))
    _say(f"written to {found}")


def explain(run: Path, /, *, config: ExplainConfig, inputs: Inputs) -> None:
    """Compute attribution maps of a run on clean images and under attack, and score them.

    They are scored against lesion masks, against each other and against chance; numbers go to its
    interpretability.json, maps to interpretability/.

    Args:
        run: run folder.
        config: maps, radii and images.
        inputs: other images.

    Examples:
        dpaat explain runs/ham                                         100 images, clean and under PGD-20 at 4/255
        dpaat explain runs/ham --maps grad-cam,input-gradient --eps 2/255,8/255 --max-samples 300
        dpaat explain runs/ham --maps grad-cam --layer layer3
        dpaat explain runs/ham --data csv:other-clinic.csv --split all
        dpaat list maps
    """
    from dpaat.interpret import explain_run, explanation_tables

    document = explain_run(run, **vars(inputs), **vars(config))
    _warn(document["data_warnings"])
    _console().print(explanation_tables(document))
    _say(f"written to {run / 'interpretability.json'}")


def compare(runs: list[Path], /, out: Path = Path("comparison.json")) -> None:
    """Compare evaluated runs image by image with the first; runs that differ in seed or fold only are pooled.

    Args:
        runs: run folders, those of the reference first.
        out: JSON file to write.

    Examples:
        dpaat compare runs/standard runs/pgd runs/dpaat
        dpaat compare runs/*-fold? --out comparison.json               folds and seeds of one method are pooled
    """
    from dpaat.evaluation.compare import compare_runs, differences_table, write_comparison

    document = compare_runs(runs)
    write_comparison(document, out)
    _warn(f"{name}: {line}" for name, lines in document["data_warnings"].items() for line in lines)
    _console().print(differences_table(document))
    _say(f"written to {out}")


def benchmark(
    grid: Path | None = None,
    /,
    data: list[str] = [],  # noqa: B006 - never changed
    out: Path | None = None,
    methods: str | None = None,
    models: str | None = None,
    folds: str | None = None,
    seeds: str | None = None,
    masking: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    only: str = "*",
    known: Path | None = None,
    reference: str | None = None,
    summary_only: bool = False,
    no_summary: bool = False,
    dry_run: bool = False,
    executor: Literal["local", "submitit", "ray"] = "local",
    cores: int = 1,
    gpus: int = 0,
    memory: float | None = None,
    executor_options: dict[str, Any] = {},  # noqa: B006 - never changed
    *,
    fields: Changes,
) -> bool:
    """Train and evaluate every cell of a grid, several side by side, and sum up what is finished in a leaderboard.

    What is done is not repeated, what failed is tried again, and one failure does not stop the rest. Several calls,
    also on several machines, share the cells of one --out.

    Args:
        grid: YAML file (docs/benchmark.md), or one of `dpaat list grids`; without one, a grid is made of the options.
        data: in place of the grid's; may be repeated.
        out: folder to make; by default runs/ and the grid's name.
        methods: training methods with commas, or all, in place of the grid's recipes; without a grid by default
            standard,pgd,trades,dpaat.
        models: those of the grid's models to keep, with commas, by default all; without a grid the networks, by default
            resnet18.
        folds: number of folds, or some of them such as 1/3,2/3, in place of the grid's; by default one split.
        seeds: with commas, in place of the grid's; by default 0.
        masking: images for checks whether robustness is feigned; by default the grid's, without a grid none.
        workers: cells side by side; by default the grid's, with an executor all.
        threads: of every cell; by default the grid's, else the cores are shared out.
        only: run the cells whose names match this pattern.
        known: folder of outcomes computed elsewhere, which are summed up, not run again.
        reference: recipe to compare the others with; by default the grid's, else standard.
        summary_only: sum up what is finished or known, run nothing.
        no_summary: run cells, sum up nothing.
        dry_run: list the cells and what each is expected to cost.
        executor: where cells are computed; submitit (SLURM) and ray run each as a job.
        cores: of every job.
        gpus: of every job.
        memory: of every job, in GiB; by default the engine's.
        executor_options: of the engine, such as --executor-options.slurm_partition gpu.
        fields: of the training.

    Examples:
        dpaat benchmark --data folder:photos --methods all --folds 3   every method on your own images
        dpaat benchmark --data folder:photos --methods pgd,dpaat --models resnet18 --epochs 50 --out runs/two
        dpaat benchmark smoke                                          run it again to go on, or to retry what failed
        dpaat benchmark quick --data folder:photos                     a first look at your own images
        dpaat benchmark grid.yaml --data ham10000:DIR --workers 2 --out results/ham
        dpaat benchmark grid.yaml --only 'dpaat-*-f1-s0'               one row again
        dpaat benchmark grid.yaml --known docs/results/ham10000-32px   with the cells of a published benchmark
        dpaat benchmark grid.yaml --known docs/results/ham10000-32px --summary-only --reference pgd-1
        dpaat benchmark grid.yaml --executor submitit --gpus 1 --executor-options.slurm_partition gpu
        dpaat benchmark grid.yaml --dry-run
    """
    from dpaat import benchmark as module
    from dpaat.benchmark.executors import Needs

    try:
        numbers = [int(each) for each in _parts(seeds)]
    except ValueError:
        raise UserError(f"seeds: {seeds!r} are not whole numbers with commas") from None
    found = module.read_grid(
        grid,
        data=data or [],
        workers=workers,
        threads=threads,
        reference=reference,
        models=_parts(models),
        methods=_parts(methods),
        folds=folds,
        seeds=numbers,
        masking=masking,
        train=fields,
    )
    if executor == "local" and (idle := [n for n, v in {"gpus": gpus, "memory": memory}.items() if v]):
        raise UserError(f"{idle[0]}: is asked for with --executor submitit or ray only")
    engine: dict[str, Any] = {
        "executor": executor,
        "needs": Needs(cores, gpus, memory),
        "executor_options": executor_options,
    }
    if executor == "local" and executor_options:
        raise UserError("executor_options: belong to --executor submitit or ray")
    options: dict[str, Any] = {"out": out, "known": known, "only": only, "console": _console()}
    if dry_run:
        module.list_cells(found, **options)
        return False
    return module.benchmark(found, summary_only=summary_only, no_summary=no_summary, **engine, **options) > 0


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def tune(
    config: TrainConfig,
    search: list[str] = [],  # noqa: B006 - never changed
    trials: int = 20,
    out: Path | None = None,
    prune: bool = False,
    cache: Path | None = None,
) -> None:
    """Search for good settings with Optuna, judged by validation scores; the test split is not looked at.

    The same command goes on with a study; several calls may work on one --out at once.

    Args:
        config: what all trials share.
        search: FIELD=LOW,HIGH, FIELD=log:LOW,HIGH, FIELD=A,B,C or FIELD=choice:1,2; may be repeated (required).
        trials: number of trainings, those of earlier calls included.
        out: folder of the study (required).
        prune: give up trainings that are worse than the median of the others at the same epoch.
        cache: folder for decoded images.

    Examples:
        dpaat tune --data folder:photos --search lr=log:1e-4,1e-1 --search clean_weight=0.5,0.9 --out runs/lr --trials 9
        dpaat tune --data folder:photos --search eps=2/255,4/255,8/255 --search options.damping=0.2,0.8 --out runs/eps
        dpaat train --config runs/lr/best.yaml    --out runs/tuned     needs pip install 'dpaat[tune]'
    """
    if out is None:
        raise UserError("out: name the folder of the study, such as --out runs/study")
    from dpaat.tuning import tune as search_settings

    search_settings(config, out, search or [], trials=trials, prune=prune, cache_dir=cache, console=_console())


def profile(config: TrainConfig, batches: int = 9, out: Path | None = None, cache: Path | None = None) -> None:
    """Measure where the time of a training step goes, and estimate the whole run.

    Args:
        config: the training.
        batches: how many batches to measure.
        out: JSON file to write.
        cache: folder for decoded images.

    Examples:
        dpaat profile --data ham10000:DIR --image-size 64 --model resnet18
        dpaat profile --config runs/ham/config.yaml --batch-size 256 --out profile.json
    """
    from dpaat.storage import write_json
    from dpaat.training import profile as module

    found = module.profile(config, batches=batches, cache_dir=cache)
    _console().print(module.profile_table(found))
    if out:
        write_json(out, found)


def export(run: Path, /, out: Path = Path("export"), images: int = 100, no_onnx: bool = False) -> None:
    """Write a run's network as ONNX and safetensors, and check that they agree with it.

    Args:
        run: run folder.
        out: folder to write into.
        images: how many test images to compare on.
        no_onnx: leave ONNX out.

    Examples:
        dpaat export runs/ham --out export                             needs pip install 'dpaat[export]'
        dpaat export runs/ham --out export --no-onnx
    """
    from dpaat import export as module

    card = module.export(run, out, images=images, onnx=not no_onnx)
    checked, forms = card["checked"], "safetensors agrees" if no_onnx else "ONNX and safetensors agree"
    worst = max(checked["largest_difference"].values())
    _say(
        f"written to {out}: {forms} with the run on {checked['images']} {checked['of']} "
        f"(largest difference of a logit: {worst:.1e})"
    )
    _say(
        f"not for timm.create_model: {card['not_for_timm']}; {module.REBUILD} builds it"
        if card["not_for_timm"]
        else f"timm takes it: timm.create_model('local-dir:{out}', pretrained=True)"
    )


def push(source: Path, repo: str, /, public: bool = False) -> None:
    """Publish a run's network on the Hugging Face hub, in timm's layout; never data, ids of images or splits.

    A repository that is not there is made, private unless --public.

    Args:
        source: run folder, or what `dpaat export` wrote.
        repo: name on the hub, such as clinic/skin-resnet18.
        public: let everybody read it.

    Examples:
        dpaat push runs/ham clinic/skin-resnet18
        dpaat export runs/ham --out export && dpaat push export clinic/skin-resnet18      with ONNX, and a card to edit
    """
    from dpaat import hub

    url, names = hub.push(source, repo, public=public)
    _say(f"pushed {', '.join(names)} to {url}")


def report(runs: list[Path], /, out: Path | None = None, format: str = "html", no_images: bool = False) -> None:
    """Write one self-contained HTML page about one or more runs, or a model card.

    Args:
        runs: run folders.
        out: file to write; by default report.html, model-card.md.
        format: html for the page, md for a model card.
        no_images: show no images of the data, which then need not be there.

    Examples:
        dpaat report runs/standard runs/pgd runs/dpaat --out report.html
        dpaat report runs/ham --no-images                               to be shown where the images may not be
        dpaat report runs/ham --format md --out README.md               a model card for a model hub
    """
    from dpaat.report import write_report

    file = out or Path("model-card.md" if format == "md" else "report.html")
    write_report(runs, file, format=format, images=not no_images)
    _say(f"written to {file}")


def data_check(
    data: str,
    /,
    image_size: int = 64,
    seed: int = 0,
    fold: str | None = None,
    window: str = "auto",
    splits: Path | None = None,
    export: Path | None = None,
) -> bool:
    """Print classes, groups, splits, leaks, duplicate and unreadable files.

    Args:
        data: dataset, as for `dpaat train --data`.
        image_size: pixels at the side.
        seed: of the split.
        fold: k/K.
        window: as for `dpaat train`.
        splits: CSV with columns id and split.
        export: write the splits to this CSV.

    Examples:
        dpaat data check ham10000:DIR
        dpaat data check csv:images.csv --fold 2/5
    """
    from dpaat.data.check import check

    options: dict[str, Any] = {"window": window, "seed": seed, "fold": fold, "splits": splits, "export": export}
    return check(data, image_size=image_size, console=_console(), **options) > 0


def list_names(what: str, filter: str = "", /) -> None:
    """List what can be named on the command line.

    Args:
        what: methods, models, attacks, datasets, maps or grids.
        filter: only names that contain this.
    """
    from dpaat.listing import listing

    _console().print(listing(what, filter))


def completion(shell: str, /) -> None:
    """Print a script that completes commands, options and values of dpaat in a shell.

    Args:
        shell: bash, zsh, tcsh or fish.

    Examples:
        dpaat completion bash > ~/.local/share/bash-completion/completions/dpaat
        dpaat completion zsh > ~/.zfunc/_dpaat                          needs pip install 'dpaat[completion]'
    """
    from dpaat.cli import completion_script

    print(completion_script(shell))


def quickstart(data: str = "synthetic", epochs: int | None = None, seed: int = 0, out: Path | None = None) -> None:
    """Train standard, fixed-radius and DPAAT models on embedded images (or --data), evaluate them and write a report.

    It takes a few minutes on two cores.

    Args:
        data: dataset, as for `dpaat train --data`.
        epochs: passes over the training set.
        seed: of everything random.
        out: folder to make; by default runs/quickstart.
    """
    from dpaat import quickstart as module

    module.quickstart(data=data, out=out, epochs=epochs, seed=seed, console=_console())


def _console() -> Console:
    return Console(markup=False)  # names of files and classes are no markup


def _say(text: str) -> None:
    _console().print(text, highlight=False, soft_wrap=True)


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        _say(f"warning: {line}")
