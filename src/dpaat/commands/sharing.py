"""Commands that show and pass on: report, export, push, data check, list, completion."""

from pathlib import Path
from typing import Any

from dpaat.terminal import announce, console, say


def report(
    runs: list[Path],
    /,
    out: Path | None = None,
    title: str = "",
    author: str = "",
    format: str = "html",
    no_images: bool = False,
) -> dict[str, Any]:
    """Write one self-contained HTML page about one or more runs, or a model card.

    Args:
        runs: run folders.
        out: file to write; by default report.html or model-card.md in the current folder.
        title: of the page; by default the runs and the data.
        author: who answers for the report; by default not named.
        format: html for the page, md for a model card.
        no_images: show no images of the data, which then need not be there.

    Examples:
        dpaat report runs/standard runs/pgd runs/dpaat --out report.html
        dpaat report runs/ham --no-images                               to be shown where the images may not be
        dpaat report runs/ham --format md --out README.md               a model card for a model hub
    """
    from dpaat.report import write_report

    file = out or Path("model-card.md" if format == "md" else "report.html")
    announce(f"drawing the report of {len(runs)} run{'s' * (len(runs) > 1)}")
    write_report(runs, file, format=format, images=not no_images, title=title, author=author)
    say(f"written to {file.resolve()}")
    return {"report": str(file.resolve())}


def export(run: Path, /, out: Path = Path("export"), images: int = 100, no_onnx: bool = False) -> dict[str, Any]:
    """Write a run's network as ONNX and safetensors, and check that they agree with it.

    Args:
        run: run folder.
        out: folder to write into; by default export in the current folder.
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
    say(
        f"written to {out.resolve()}: {forms} with the run on {checked['images']} {checked['of']} "
        f"(largest difference of a logit: {worst:.1e})"
    )
    say(
        f"not for timm.create_model: {card['not_for_timm']}; {module.REBUILD} builds it"
        if card["not_for_timm"]
        else f"timm takes it: timm.create_model('local-dir:{out}', pretrained=True)"
    )
    return card


def push(source: Path, repo: str, /, public: bool = False) -> dict[str, Any]:
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
    say(f"pushed {', '.join(names)} to {url}")
    return {"url": url, "files": names}


def data_check(
    data: str,
    /,
    image_size: int = 64,
    seed: int = 0,
    fold: str | None = None,
    window: str = "auto",
    splits: Path | None = None,
    export: Path | None = None,
) -> dict[str, Any]:
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
    return check(data, image_size=image_size, console=console(), **options)


def list_names(what: str, filter: str = "", /) -> dict[str, Any]:
    """List what can be named on the command line.

    Args:
        what: methods, models, attacks, datasets, maps or grids.
        filter: only names that contain this.
    """
    from dpaat.listing import listing

    table, *notes = listing(what, filter)
    console().print(table.to_rich(), *notes, sep="\n")
    return {what: table.records(), "notes": notes}


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
