"""Several labels an image, trained for some minutes: methods rank as with classes, and radii move."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dpaat.config import TrainConfig
from dpaat.data import load_table
from dpaat.evaluation import evaluate_run
from dpaat.training import train

TOLD_APART = 0.05  # of mAP: on 84 images less is chance; standard and dpaat lie within 0.02 of each other
METHODS = {"standard": {}, "pgd": {"eps": "4/255"}, "dpaat": {}}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    table = load_table("synthetic:420")
    for row, name in enumerate(table.ids):
        Image.fromarray(table.read(row)).resize((32, 32)).save(folder / f"{name}.png")
    frame = pd.DataFrame({"path": [f"{name}.png" for name in table.ids], "group": table.frame["group"]})
    frame["split"] = np.where(np.arange(420) % 10 < 7, "train", np.where(np.arange(420) % 10 == 7, "val", "test"))
    frame.assign(label=table.label_names).to_csv(folder / "classes.csv", index=False)
    columns = pd.DataFrame(np.eye(7, dtype=int)[table.labels], columns=list(table.classes))
    pd.concat([frame, columns], axis=1).to_csv(folder / "labels.csv", index=False)
    return f"csv:{folder}/classes.csv", f"csv:{folder}/labels.csv,labels={'+'.join(table.classes)}"


@pytest.mark.slow
def test_methods_rank_alike(tables, tmp_path):
    scores = {}
    for kind, spec in enumerate(tables):
        for name, options in METHODS.items():
            common = {"image_size": 32, "model": "test_resnet", "stem": "original", "epochs": 20, "batch_size": 32}
            common |= {"steps": 3, "val_eps": "0", "select": "last", "ema_decay": 0.9, "accelerator": "cpu"}
            run = train(TrainConfig(data=spec, method=name, **common, **options), tmp_path / f"{name}-{kind}")
            document = evaluate_run(run, attacks=["pgd"], steps="10", eps="2/255", progress=False)
            for entry in document["results"]:
                scores.setdefault((entry["eps_text"], kind), {})[name] = entry["metrics"]["map"]
    for eps in ("0", "2/255"):
        as_classes, as_labels = scores[eps, 0], scores[eps, 1]
        pairs = [(a, b) for a, b in combinations(METHODS, 2) if abs(as_classes[a] - as_classes[b]) > TOLD_APART]
        assert len(pairs) >= 2
        assert all((as_classes[a] > as_classes[b]) == (as_labels[a] > as_labels[b]) for a, b in pairs), scores


@pytest.mark.slow
def test_the_default_moves_nearly_all_radii_in_30_epochs(tmp_path):
    common = {"image_size": 32, "model": "test_resnet", "stem": "original", "val_eps": "0", "accelerator": "cpu"}
    run = train(TrainConfig(data="synthetic:300,labels=multi", epochs=30, **common), tmp_path / "run")
    radii = pd.read_parquet(run / "perturbation.parquet" / "epoch-0029.parquet")["eps"]
    assert (radii > 0.2 * 8 / 255 * 1.001).mean() >= 0.9
