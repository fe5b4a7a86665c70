"""Commands that measure: evaluate, explain, compare, predict."""

from pathlib import Path
from typing import Any

from dpaat.errors import UserError
from dpaat.measurement import EvaluateConfig, ExplainConfig, Foreign, Inputs, Reading
from dpaat.own_code import is_own
from dpaat.storage import refuse_overwriting
from dpaat.terminal import announce, console, say, warn


def evaluate(
    run: Path | None = None, /, *, config: EvaluateConfig, inputs: Inputs, foreign: Foreign, source: Path | None = None
) -> dict[str, Any]:
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
    from dpaat.evaluation.elsewhere import target_from_elsewhere, target_of_folder
    from dpaat.evaluation.entries import learned_note
    from dpaat.evaluation.run import source_of
    from dpaat.models import describe_weights
    from dpaat.precision import emulation

    reading: dict[str, Any] = {"window": inputs.window, "device": inputs.device, "progress": True}
    if run is not None:
        if idle := [name for name, value in vars(foreign).items() if value != getattr(Foreign, name)]:
            raise UserError(
                f"evaluate: --{idle[0].replace('_', '-')} belongs to weights from elsewhere; a run folder needs none"
            )
        target = target_of_folder(run, data=inputs.data, **reading)
    else:
        for name in ("model", "weights", "data", "out"):
            if name == "weights" and is_own(foreign.model):
                continue
            if {**vars(foreign), "data": inputs.data}[name] is None:
                raise UserError(f"evaluate: name a run folder, or weights from elsewhere with --{name}")
        target = target_from_elsewhere(foreign, inputs.data, seed=config.seed, **reading)
        say(describe_weights(target.head["network"]) or "")
    other, slow = source_of(target, source), emulation(config.precision, target.device)
    seen = learned_note(target.learned(target.rows("all"))) if config.split == "all" else None
    warn(filter(None, [*target.warnings, slow, seen]))
    document = measure(target, config, source=other)
    console().print(evaluation_table(document), analyses_summary(document))
    say(f"written to {target.folder / 'evaluation.json'}")
    return document


def explain(run: Path, /, *, config: ExplainConfig, inputs: Inputs) -> dict[str, Any]:
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
    warn(document["data_warnings"])
    console().print(explanation_tables(document))
    say(f"written to {run / 'interpretability.json'}")
    return document


def compare(runs: list[Path], /, out: Path | None = None, all: bool = False) -> dict[str, Any]:
    """Compare evaluated runs image by image with the first; runs that differ in seed or fold only are pooled.

    Args:
        runs: run folders, those of the reference first.
        out: JSON file to write; by default none.
        all: show all metrics and attacks, not only balanced accuracy on clean images and in the worst case.

    Examples:
        dpaat compare runs/standard runs/pgd runs/dpaat
        dpaat compare runs/*-fold? --out comparison.json               folds and seeds of one method are pooled
    """
    from dpaat.evaluation.compare import compare_runs, differences_table, write_comparison

    if out is not None:
        refuse_overwriting(out, '{\n "schema_version"')
    announce(f"comparing {len(runs)} runs")
    document = compare_runs(runs)
    warn(f"{name}: {line}" for name, lines in document["data_warnings"].items() for line in lines)
    console().print(differences_table(document, full=all))
    if out is not None:
        write_comparison(document, out)
        say(f"written to {out}")
    return document


def predict(
    run: Path, images: list[str], /, *, reading: Reading, batch_size: int = 128, out: Path = Path("predictions.csv")
) -> dict[str, Any]:
    """Classify images with a run; probabilities go to a CSV file.

    Args:
        run: run folder, or what `dpaat export` wrote.
        images: image files, folders of images, or one dataset spec.
        reading: how the images are read.
        batch_size: images per batch.
        out: CSV file to write; by default predictions.csv in the current folder.

    Examples:
        dpaat predict runs/ham photo1.jpg photo2.jpg --out predictions.csv
        dpaat predict runs/ham folder-of-photos --out predictions.csv
    """
    from dpaat.evaluation import predict as classify

    what: Any = images[0] if len(images) == 1 else images
    found = classify(run, what, out, batch_size=batch_size, console=console(), **vars(reading))
    say(f"written to {found.resolve()}")
    return {"predictions": str(found.resolve())}
