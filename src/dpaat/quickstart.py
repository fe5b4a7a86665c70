"""Everything once: three methods on the same images, evaluated alike, in one table and one page."""

from itertools import chain, count
from pathlib import Path

from rich.console import Console

from dpaat.config import TrainConfig
from dpaat.errors import UserError

METHODS = ("standard", "pgd", "dpaat-balanced")
"""`dpaat` itself attacks too seldom to show anything in a few epochs."""
RADII = (2 / 255, 4 / 255, 8 / 255)
STEPS = 20
EPOCHS = 12


def settings(data: str, method: str, epochs: int, seed: int) -> TrainConfig:
    """The small training run that quickstart makes for a method."""
    return TrainConfig(
        data=data,
        image_size=32,
        model="test_resnet",
        stem="original",
        method=method,
        steps=5,
        epochs=epochs,
        batch_size=64,
        optimizer="adamw",
        lr=5e-3,
        weight_decay=0.05,
        val_eps="2/255,4/255,8/255",
        val_steps=5,
        seed=seed,
        accelerator="cpu",
    )


def quickstart(
    *, data: str, out: Path | None, epochs: int | None, seed: int, console: Console, progress: bool = True
) -> Path:
    """Train, evaluate and report on three methods, in the first free `runs/quickstart-N` by default.

    Returns the report. Raises UserError: bad input, or an `out` that already holds something.
    """
    from dpaat.evaluation import comparison_table, evaluate_run
    from dpaat.report import write_report
    from dpaat.training import train

    if out is None:
        names = chain(["quickstart"], (f"quickstart-{number}" for number in count(2)))
        out = next(folder for name in names if not (folder := Path("runs") / name).exists())
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: already holds something; choose another --out")
    if epochs is not None and epochs < 1:
        raise UserError(f"epochs: {epochs} is out of range; it must be at least 1")
    documents = {}
    for method in METHODS:
        run = train(
            settings(data, method, epochs or EPOCHS, seed),
            out / method,
            command=f"dpaat quickstart --data {data} --seed {seed}" + (f" --epochs {epochs}" if epochs else ""),
            console=console,
        )
        documents[method] = evaluate_run(run, steps={"pgd": STEPS}, eps=RADII, device="cpu", progress=progress)
    report = write_report([out / method for method in METHODS], out / "report.html")
    console.print()
    console.print(comparison_table(documents))
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return report
