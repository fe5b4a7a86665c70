"""Every mistake: exit code 2, one clear line that names the culprit, and no folder that passes for a run."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_makers import ham_rows, jpeg, make_ham, write_csv
from dpaat.models import build_model
from training_makers import fails, no_run, tiny_arguments

# --- train: options; what must stand in the line, then the options

OPTIONS = [
    ("nowhere", "--data=folder:nowhere"),
    ("nearest: folder", "--data=foldr:x"),
    ("nearest: resnet18", "--model=resnt18"),
    ("nearest: dpaat", "--method=dpat"),
    ("eps", "--eps=-1"),
    ("eps", "--eps", "-1/255"),
    ("eps", "--eps=nan"),
    ("eps: 'big'", "--eps=big"),
    ("awp", "--awp=1"),
    ("eps", "--eps=8/0"),
    ("eps", "--eps=0"),
    ("eps", "--eps=-1", "--method=standard"),
    ("val_eps", "--val-eps=1/255,x"),
    ("image_size", "--image-size=0"),
    ("image_size", "--image-size=-3"),
    ("--image-size", "--image-size=big"),
    ("inception_v3", "--model=inception_v3"),
    ("unknown", "--trainer.unknown=1"),
    ("nearest: gradient_clip_val", "--trainer.gradient_clip_value=1"),
    ("gradient_clip_val", "--trainer.gradient_clip_val=steep"),
    ("trainer.max_epochs", "--trainer.max_epochs=3"),
    ("trainer.check_val_every_n_epoch", "--trainer.check_val_every_n_epoch=2"),
    ("trainer.fast_dev_run", "--trainer.fast_dev_run=true"),
    ("trainer.precision", "--trainer.precision=16"),
    ("6/5", "--fold=6/5"),
    ("a/b", "--fold=a/b"),
    ("fold", "--fold=1/5", "--splits=x.csv"),
    ("nowhere.csv", "--splits=nowhere.csv"),
    ("accelerator tpu", "--accelerator=tpu"),
    ("accelerator quantum", "--accelerator=quantum"),
    ("precision 17", "--precision=17"),
    ("precision", "--precision=bf16-true"),
    ("devices", "--devices=9999"),
    ("devices none", "--devices=none"),
    ("devices 0", "--devices=0"),
    ("num_nodes", "--num-nodes=0"),
    ("strategy foo", "--strategy=foo"),
    ("batch_size", "--batch-size=1"),
    ("workers", "--workers=-1"),
    ("--norm", "--norm=l3"),
    ("statistic", "--options.statistic=medain"),
    ("ramp", "--options.ramp=0"),
    ("ramp", "--options.ramp=-0.5"),
    ("nearest: ramp", "--options.rampe=1"),
    ("takes no further options", "--method=pgd", "--options.ramp=1"),
    ("lr", "--lr=0"),
    ("try a smaller --lr", "--lr=1e30"),
    ("epochs", "--epochs=0"),
    ("stop_after", "--stop-after=0"),
    ("seed", "--seed=-1"),
    ("seed", "--seed=5000000000"),
    ("clean_weight", "--clean-weight=1.5"),
    ("ema_decay", "--ema-decay=1"),
    ("nearest: flip", "--augment=flop"),
    ("--imbalance", "--imbalance=weight"),
    ("nowhere.pth", "--weights=nowhere.pth"),
    ("--image-sise", "--image-sise=3"),
    ("nowhere.yaml", "--config=nowhere.yaml"),
]


@pytest.mark.parametrize(("named", "options"), [(named, options) for named, *options in OPTIONS])
def test_train_options(named, options, tiny_images, tmp_path, capfd):
    out = tmp_path / "out"
    fails(capfd, *tiny_arguments(tiny_images, epochs=1), f"--out={out}", *options, names=(named,))
    no_run(out)
    assert not out.exists() or "--lr=1e30" in options, "refused before anything is made"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_accelerator_that_is_not_there(tiny_images, tmp_path, capfd):
    fails(
        capfd, *tiny_arguments(tiny_images, accelerator="gpu"), f"--out={tmp_path / 'out'}", names=("accelerator gpu",)
    )
    assert not (tmp_path / "out").exists()


# --- train: files


def missing_column(folder: Path) -> tuple[str, ...]:
    data = make_ham(folder / "ham", lesions=14)
    rows = [{key: value for key, value in row.items() if key != "dx"} for row in ham_rows(14)]
    write_csv(data / "HAM10000_metadata.csv", rows)
    return f"--data=ham10000:{data}", "HAM10000_metadata.csv", "'dx'"


def absent_image(folder: Path) -> tuple[str, ...]:
    data = make_ham(folder / "ham", lesions=14)
    image = sorted(data.rglob("ISIC_*.jpg"))[3]
    image.unlink()
    return f"--data=ham10000:{data}", image.stem


def truncated_image(folder: Path) -> tuple[str, ...]:
    data = make_ham(folder / "ham", lesions=14)
    image = sorted(data.rglob("ISIC_*.jpg"))[3]
    image.write_bytes(jpeg(3)[:-200])
    return f"--data=ham10000:{data}", image.name


def weights_of_another_model(folder: Path) -> tuple[str, ...]:
    torch.save(build_model("test_efficientnet", num_classes=3, image_size=64).network.state_dict(), folder / "w.pth")
    return f"--weights={folder / 'w.pth'}", "w.pth: not weights of this model"


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def malicious_weights(folder: Path) -> tuple[str, ...]:
    (folder / "w.pth").write_bytes(pickle.dumps(Bomb(folder / "crater")))
    return f"--weights={folder / 'w.pth'}", "w.pth", "could run code"


def strange_config(folder: Path) -> tuple[str, ...]:
    (folder / "c.yaml").write_text("image_sise: 3\n")
    return f"--config={folder / 'c.yaml'}", "image_sise"


def corrupt_config(folder: Path) -> tuple[str, ...]:
    (folder / "c.yaml").write_text("seed: [1, {\n: :")
    return f"--config={folder / 'c.yaml'}", "config"


def null_in_config(folder: Path) -> tuple[str, ...]:
    (folder / "c.yaml").write_text("val_steps: null\n")
    return f"--config={folder / 'c.yaml'}", "val_steps: needs a value"


FILES = [
    missing_column,
    absent_image,
    truncated_image,
    weights_of_another_model,
    malicious_weights,
    strange_config,
    corrupt_config,
    null_in_config,
]


@pytest.mark.parametrize("make", FILES)
def test_train_files(make: Callable[[Path], tuple[str, ...]], tiny_images, tmp_path, capfd):
    option, *names = make(tmp_path)
    out = tmp_path / "out"
    fails(capfd, *tiny_arguments(tiny_images, epochs=1), f"--out={out}", option, names=tuple(names))
    assert not out.exists()
    assert not (tmp_path / "crater").exists()


def test_out_must_be_free_and_a_folder(tiny_run, tiny_images, tmp_path, capfd):
    before = (tiny_run / "run.json").read_bytes()
    fails(capfd, *tiny_arguments(tiny_images), f"--out={tiny_run}", names=(str(tiny_run), "--resume"))
    assert (tiny_run / "run.json").read_bytes() == before
    file = tmp_path / "file"
    file.write_text("")
    fails(capfd, *tiny_arguments(tiny_images), f"--out={file}", names=(str(file),))
    fails(capfd, *tiny_arguments(tiny_images), f"--out={file / 'run'}", names=(str(file / "run"),))
    fails(capfd, *tiny_arguments(tiny_images), names=("--out",))


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("nearest: train", ["trian"]),
        ("nearest: models", ["list", "model"]),
        ("nowhere", ["evaluate", "nowhere"]),
        ("nowhere", ["predict", "nowhere", "x.png"]),
        ("nowhere", ["report", "nowhere"]),
        ("nowhere", ["data", "check", "folder:nowhere"]),
        ("fold", ["data", "check", "synthetic:60", "--fold=9/5"]),
        ("run", ["evaluate"]),
    ],
)
def test_other_commands(named, arguments, capfd):
    fails(capfd, *arguments, names=(named,))
