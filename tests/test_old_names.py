"""Names of version 0.1 in run folders and grids: read as what they meant, or refused in one line."""

import pytest
import yaml

from dpaat.config import TrainConfig, complete
from dpaat.errors import UserError
from dpaat.methods import METHODS as PRESENT
from dpaat.methods.old_names import GONE, METHODS, OPTIONS, present_names
from dpaat.runs import read_config


@pytest.mark.parametrize("old", METHODS)
def test_every_control_is_an_option_now(old):
    method, options = METHODS[old]
    assert old not in PRESENT
    assert present_names({"method": old}) == {"method": method, "options": options}
    config = complete(TrainConfig(method=old))
    assert config.method == method
    assert config.options["radius"] == options["radius"]


@pytest.mark.parametrize(("old", "value"), [("graded", 0.5), ("least", 2), ("floor", 0.25), ("collect", "adversarial")])
def test_every_option_has_its_present_name(old, value):
    assert old in OPTIONS
    found = present_names({"method": "dpaat-half", "options": {old: value, "ramp": 0.3}})
    assert found == {"method": "dpaat-half", "options": {OPTIONS[old]: value, "ramp": 0.3}}
    assert complete(TrainConfig(method="dpaat-half", options={old: value})).options[OPTIONS[old]] == value


def test_the_table_is_covered():
    assert set(OPTIONS) == {"graded", "least", "floor", "collect"}
    assert set(GONE) == {"signal", "update", "schedule", "warmup", "loss_decay", "momentum"}


@pytest.mark.parametrize(
    ("old", "present"),
    [
        ({"start": 0.5}, {"adv_start": 0.5, "options": {}}),
        ({"attacked": 0.5}, {"options": {"views": "both", "adv_fraction": 0.5}}),
        ({"attacked": 0.0}, {"options": {"views": "alternate"}}),
    ],
)
def test_options_that_became_something_else(old, present):
    expected = {"method": "dpaat-fast", "clean_weight": 0.9, **present}
    assert present_names({"method": "dpaat-fast", "clean_weight": 0.9, "options": old}) == expected


@pytest.mark.parametrize(("weight", "views"), [(0.0, None), (0.5, "both")])
def test_the_papers_reading_showed_both_views_where_clean_ones_counted(weight, views):
    options = {"collect": "adversarial"} | GONE
    found = present_names({"method": "dpaat-paper", "clean_weight": weight, "options": options})
    assert found["options"].get("views") == views


OLD_DEFAULT = {"start": 0.5, "graded": 1.0, "least": 5, "attacked": 0.0, "eps_init": 0.25, "floor": 0.0, **GONE}


def test_the_default_of_that_time_keeps_its_meaning(tmp_path):
    values = {"method": "dpaat", "eps": "4/255", "clean_weight": 0.85, "options": OLD_DEFAULT}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    found = complete(read_config(tmp_path / "config.yaml"))
    assert found == complete(TrainConfig(method="dpaat-v1", adv_start=0.5))
    assert (found.adv_start, found.self_teacher, found.radius) == (0.5, 0.0, 4 / 255)


@pytest.mark.parametrize("name", GONE)
def test_an_option_that_is_gone_stands_at_what_is_left_of_it_or_is_refused(name):
    kept = present_names({"method": "dpaat-half", "options": {name: GONE[name]}})
    assert kept == {"method": "dpaat-half", "options": {}}
    other = 7 if isinstance(GONE[name], int | float) else "other"
    with pytest.raises(UserError, match=f"options.{name}: only {GONE[name]!r} is left of it") as caught:
        complete(TrainConfig(method="dpaat-half", options={name: other}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "dpaat"},
        {"method": "dpaat", "options": {"ramp": 0.2}},
        {"method": "pgd", "options": {}},
        {"method": "gairat", "options": {"start": 0.5}},
        {"method": "iaat", "options": {"warmup": 0.2}},
        {"lr": 0.1},
    ],
)
def test_present_names_stay(values):
    assert present_names(values) == values
