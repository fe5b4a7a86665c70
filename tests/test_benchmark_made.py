"""Grids made on the command line, and the leaderboard."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from benchmark_makers import CELLS, GRID, write_grid
from dpaat.benchmark import read_grid
from dpaat.benchmark.leaderboard import write_leaderboard
from dpaat.errors import UserError
from dpaat.methods import METHODS
from test_report_browser import CHROMIUM, open_page
from training_makers import fails


def test_a_leaderboard_in_l2_is_attacked_in_l2():
    grid = read_grid(None, data=["synthetic:60"], methods=["pgd", "dpaat"], train={"norm": "l2", "eps": "0.5,1"})
    assert {cell.config.norm for cell in grid.cells} == {grid.plans.main.norm} == {"l2"}
    assert grid.plans.main.radii == [0.25, 0.5, 1.0, 2.0]


def test_a_typed_option_leaves_those_that_make_a_recipe(tmp_path):
    recipes = {
        "mean": {"method": "dpaat", "options": {"radius": "mean"}},
        "own": {"method": "dpaat"},
        "damped": {"method": "dpaat", "options": {"damping": 0.9}},
    }
    train = {**GRID["train"], "options": {"eps_min": 0.1}}
    grid = read_grid(
        write_grid(tmp_path / "grid.yaml", recipes=recipes, train=train), train={"options": {"damping": 0.3}}
    )
    options = {cell.recipe: cell.config.options for cell in grid.cells}
    assert {name: (o["radius"], o["damping"]) for name, o in options.items()} == {
        "mean": ("mean", 0.3),
        "own": ("own", 0.3),
        "damped": ("own", 0.3),
    }
    assert options["own"]["eps_min"] == 0.1


def test_a_grid_without_a_file(tiny_images):
    data = f"folder:{tiny_images}"
    grid = read_grid(
        None, data=[data], methods=["standard", "pgd"], models=["resnet18"], folds="3", train={"epochs": 2}
    )
    assert [cell.name for cell in grid.cells][:3] == [
        "standard-resnet18-folder-f1-s0",
        "pgd-resnet18-folder-f1-s0",
        "standard-resnet18-folder-f2-s0",
    ]
    assert len(grid.cells) == 6
    assert {cell.config.epochs for cell in grid.cells} == {2}
    assert grid.reference == "standard"
    assert grid.command == (
        "dpaat benchmark --data folder:DIR --models resnet18 --methods standard,pgd --folds 3 --epochs 2"
    )
    assert str(tiny_images) not in json.dumps(grid.content)


def test_all_methods_and_families_of_radii(tiny_images):
    data = [f"folder:{tiny_images}"]
    assert [recipe.name for recipe in read_grid(None, data=data, methods=["all"]).recipes] == [*METHODS]
    grid = read_grid(None, data=data, train={"eps": "1/255,2/255"})
    names = ["standard", "pgd-1", "pgd-2", "trades-1", "trades-2", "dpaat-1", "dpaat-2"]
    assert [recipe.name for recipe in grid.recipes] == names
    assert [cell.config.radius * 255 for cell in grid.cells] == pytest.approx([0, 1, 2, 1, 2, 1, 2])


def test_what_is_made_can_be_repeated_from_its_file(tiny_images, tmp_path):
    options = {"methods": ["pgd"], "seeds": [3], "masking": 5, "train": {"lr": 0.5, "eps": "2/255"}}
    grid = read_grid(None, data=[f"folder:{tiny_images}"], workers=2, threads=1, **options)
    path = tmp_path / "benchmark.yaml"
    path.write_text(yaml.safe_dump(grid.file))
    again = read_grid(path)
    assert (again.cells, again.plans, again.reference) == (grid.cells, grid.plans, grid.reference)
    assert (again.workers, again.threads) == (2, 1)


def test_the_command_line_wins_over_a_file(tmp_path):
    recipes = {"one": {"method": "pgd", "epochs": 9, "eps": ["1/255", "2/255"]}, "two": {"method": "standard"}}
    path = write_grid(tmp_path / "grid.yaml", recipes=recipes)
    grid = read_grid(path, folds="1/3,3/3", train={"epochs": 4, "eps": "3/255"})
    assert [recipe.name for recipe in grid.recipes] == ["one", "two"]
    assert {(cell.config.epochs, cell.fold) for cell in grid.cells} == {(4, "1/3"), (4, "3/3")}
    assert {cell.recipe: cell.config.eps for cell in grid.cells} == {"one": "3/255", "two": None}
    assert [recipe.name for recipe in read_grid(path, methods=["trades"]).recipes] == ["trades"]
    assert read_grid(path, methods=["trades"]).reference == "trades"


@pytest.mark.parametrize("grid", [None, "quick", "smoke"])
@pytest.mark.parametrize("methods", ["pgd", "trades,pgd", "dpaat,trades"])
@pytest.mark.parametrize("reference", [None, "trades", "trades-2"])
def test_a_family_is_compared_with_by_its_first_radius(tiny_images, grid, methods, reference):
    made = [name for method in methods.split(",") for name in (f"{method}-1", f"{method}-2")]
    options = {"data": [f"folder:{tiny_images}"], "methods": methods.split(","), "train": {"eps": "1/255,2/255"}}
    if reference and "trades" not in methods:
        with pytest.raises(UserError, match="pgd-1"):
            read_grid(grid and Path(grid), reference=reference, **options)
        return
    expected = {None: made[0], "trades": "trades-1", "trades-2": "trades-2"}[reference]
    assert read_grid(grid and Path(grid), reference=reference, **options).reference == expected


BAD = {
    "--methods=nothing": "nothing",
    "--methods=pgd,pgd": "is given twice",
    "--models=nothing": "nothing",
    "--folds=1": "at least 2",
    "--folds=x": "x",
    "--seeds=a": "seeds",
    "--epochs=0": "epochs",
    "--eps=1/255,1/255": "eps",
    "--gpus=1": "gpus",
    "--memory=2": "memory",
    "--cores=0": "--cores",
    "--executor-options.partition=x": "executor_options",
    "--reference=trades": "trades",
    "--masking=-1": "masking",
    "--threads=0": "threads",
}


@pytest.mark.parametrize("option", BAD)
def test_bad_options_are_one_line(tiny_images, tmp_path, capfd, option):
    methods = [] if option.startswith("--methods") else ["--methods=standard,pgd"]
    arguments = [f"--data=folder:{tiny_images}", f"--out={tmp_path / 'out'}", *methods, option, "--dry-run"]
    fails(capfd, "benchmark", *arguments, names=(BAD[option],))
    assert not (tmp_path / "out" / "cells").exists()


@pytest.mark.parametrize("grid", [None, "smoke"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["folder:a", "folder:b"], "folder:a and folder:b are two datasets of one kind, which cannot be in one"),
        (["medmnist:mine:a.npz", "medmnist:mine:b.npz"], "two datasets of one kind"),
        (["folder:a", "folder:a"], "folder:a is given twice"),
    ],
)
def test_datasets_of_one_kind_are_not_in_one_benchmark(given, said, grid):
    with pytest.raises(UserError, match=f"data: .*{said}"):
        read_grid(grid and Path(grid), data=given, methods=["pgd"])


def test_without_data_nothing_is_tried(capfd, tmp_path):
    fails(capfd, "benchmark", f"--out={tmp_path}", names=("--data",))


# --- the leaderboard


def test_the_leaderboard_has_a_row_a_recipe_and_links_every_run(finished_grid):
    page = (finished_grid / "out" / "report.html").read_text()
    assert re.findall(r'<th scope="row" title="([^"]+)"', page) in (["standard", "pgd-8"], ["pgd-8", "standard"])
    links = re.findall(r'<td class="text">\s*<a href="([^"]+)">', page) + re.findall(r'</a> <a href="([^"]+)">', page)
    assert sorted(links) == sorted(f"cells/{name}/report.html" for name in CELLS)
    assert all((finished_grid / "out" / link).is_file() for link in links)
    assert "No masking checks were made" in page
    (table,) = json.loads((finished_grid / "out" / "benchmark.json").read_text())["tables"]
    for row in table["rows"]:
        score = row["scores"]["area"]
        low, high = score["interval"]
        assert f'key">{100 * score["value"]:.1f}<small>[{100 * low:.1f}, {100 * high:.1f}]' in page


@pytest.mark.parametrize(("suites", "said"), [(["standard"], True), (["standard", "masking"], False)])
def test_the_leaderboard_of_a_suite_without_checks_says_so(finished_grid, tmp_path, suites, said):
    document = json.loads((finished_grid / "out" / "benchmark.json").read_text())
    document["evaluation"]["suites"] = suites
    write_leaderboard(document, [], "made", tmp_path)
    assert ("No masking checks were made" in (tmp_path / "report.html").read_text()) == said


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_leaderboard_sorts_without_a_complaint(finished_grid, tmp_path):
    page = Path(shutil.copy(finished_grid / "out" / "report.html", tmp_path / "report.html"))
    dom, complaints = open_page(page, tmp_path / "profile")
    assert complaints == []
    assert dom.count("<button>") > 8
    # Clicked by a script of the test, for which the page's policy has to be opened.
    column = 'document.querySelectorAll("thead tr:last-child th button")[2].click();'
    text = re.sub(r"script-src '[^']+'", "script-src 'unsafe-inline'", page.read_text())
    orders = []
    for clicks in (1, 2):
        page.write_text(text.replace("</body>", f"<script>{column * clicks}</script></body>"))
        dom, complaints = open_page(page, tmp_path / "profile")
        assert complaints == []
        orders.append([float(v) for v in re.findall(r"</th>\s*<td[^>]*>[^<]*</td>\s*<td[^>]*>([\d.]+)", dom)])
    assert orders[0] == sorted(orders[0], reverse=True)
    assert orders[1] == sorted(orders[0])
    assert len(set(orders[0])) == 2
