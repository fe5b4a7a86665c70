"""What makes the suites cheap changes no verdict."""

import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from dpaat.attacks import apgd, apgd_targeted, fab, fab_targeted
from dpaat.cli import main
from dpaat.evaluation.attacking import Attacker, Outputs
from dpaat.evaluation.cascade import Cascade, run_cascade
from dpaat.evaluation.folding import search_copy
from dpaat.evaluation.results import read_evaluation
from dpaat.evaluation.specs import attack_spec
from dpaat.evaluation.suite import ENSEMBLE, SCORED, SUITE_ATTACKS, run_attacks, run_standard
from dpaat.models import build_model

RADII = [0.02, 0.05, 0.1]


def trained_norms(model):
    """BatchNorm layers as after a training, not as new ones."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext2"])
def test_the_network_to_search_on_answers_alike(name):
    torch.manual_seed(0)
    model = trained_norms(build_model(name, num_classes=5, image_size=32, stem="original")).train()
    before = deepcopy(model.state_dict())
    x = torch.rand(6, 3, 32, 32)
    copy = search_copy(model, x)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if name != "test_convnext2":
        assert not [module for module in copy.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(copy(x), model.eval()(x), rtol=0, atol=1e-4)


class Twice(nn.Module):
    """A convolution whose output is used beside its BatchNorm too, so that folding would change the answer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        made = self.conv(x)
        return (self.norm(made) + made).mean((2, 3))


class Uncopied(Twice):
    def __deepcopy__(self, memo):
        raise TypeError("not this one")


def test_where_folding_would_change_the_answer_the_network_itself_is_taken():
    x = torch.rand(4, 1, 8, 8)
    for model in (trained_norms(Twice()).eval(), Uncopied().eval()):
        assert search_copy(model, x) is model


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 5)).eval()


@pytest.fixture
def images(network):
    torch.manual_seed(2)
    x = torch.rand(24, 3, 4, 4)
    return x, network(x).argmax(1)


def test_leaving_at_the_first_misclassified_image_changes_no_verdict(network, images):
    x, y = images
    for eps in RADII:
        options = {"eps": eps, "steps": 20, "start": "zero", "loss": "dlr"}
        whole, short = (network(apgd(network, x, y, stop=stop, **options)).argmax(1) != y for stop in (False, True))
        assert torch.equal(whole, short)
        assert (apgd(network, x, y, stop=True, **options) - x).abs().max() <= eps + 1e-6
    assert whole.any()


def test_radii_and_targets_of_a_batch_do_not_disturb_each_other(network, images):
    x, y = images
    eps = torch.tensor(RADII).repeat(8)
    rank = torch.arange(24) % 4
    options = {"steps": 10, "start": "zero"}
    mixed = apgd_targeted(network, x, y, eps=eps, rank=rank, stop=True, **options)
    for number in range(24):
        one = slice(number, number + 1)
        alone = apgd_targeted(network, x[one], y[one], eps=float(eps[number]), rank=rank[one], stop=True, **options)
        torch.testing.assert_close(mixed[one], alone)


def test_fab_finds_the_same_with_targets_in_one_batch(network, images, monkeypatch):
    x, y = images
    together = fab_targeted(network, x, y, steps=10)
    monkeypatch.setattr(fab, "ROWS", 1)
    torch.testing.assert_close(together, fab_targeted(network, x, y, steps=10))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_gives_up_targets_far_beyond_the_radius_only(network, images, norm):
    x, y = images
    rows = []
    network.register_forward_hook(lambda _, __, logits: rows.append(len(logits)))
    options = {"steps": 20, "norm": norm}
    nearest = fab_targeted(network, x, y, **options) - x
    distance = torch.linalg.vector_norm(nearest.flatten(1), ord=2 if norm == "l2" else torch.inf, dim=1)
    whole, radius = sum(rows), distance.median().item()
    rows.clear()
    found = fab_targeted(network, x, y, eps=radius, stop=True, **options)
    assert sum(rows) < 0.8 * whole
    near = distance <= radius
    torch.testing.assert_close((found - x)[near], nearest[near])
    assert torch.equal(found[~near], x[~near])


def test_of_an_image_attacked_several_times_the_smallest_radius_counts():
    cascade = Cascade(np.zeros(3, int), np.zeros(3, int))
    cascade.note("A", np.array([0, 0, 1, 1, 2]), np.array([2, 1, 0, 3, 0]), np.array([0.1, 0.2, 0.1, 0.3, 0.4]))
    assert cascade.fell.tolist() == [0.1, 0.3, np.inf]
    assert cascade.at(0.3)[0].tolist() == [2, 3, 0]


class Levels(nn.Module):
    """Two classes by the mean of an image: an image falls in Linf exactly at its distance from 1/2."""

    def forward(self, x):
        lead = 10 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-lead, lead], 1)


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t", "pgd", "square", "fab-t"])
def test_every_attack_falls_where_it_must_in_one_batch_of_all_radii(attack, spare):
    levels = np.array([0.51, 0.53, 0.56, 0.7, 0.46])
    x = np.broadcast_to(levels[:, None, None, None], (5, 1, 4, 4)).astype(np.float32)
    labels = (levels > 0.5).astype(np.int64)
    cascade = Cascade(labels, labels)
    with Attacker(Levels(), x, labels, num_classes=2, progress=False) as attacker:
        run_cascade(attacker.faster(), cascade, [attack_spec(attack, steps=30)], RADII, spare=spare)
    wanted = [[abs(level - 0.5) < eps for level in levels] for eps in RADII]
    found = [(cascade.fell <= eps).tolist() for eps in RADII]
    assert found == [[bool(each) for each in row] for row in wanted]
    # The fourth withstands the largest radius, the third the middle one.
    spared = {} if not spare or attack == "fab-t" else {"0.02": 2, "0.05": 1}
    label = attack_spec(attack, steps=30).label
    assert list(cascade.spared.values()) == list(spared.values())
    assert all(name.startswith(label) for name in cascade.spared)


def test_only_what_withstands_all_attacks_at_a_radius_is_spared_them_at_smaller_ones(monkeypatch):
    # The radius from which each attack finds each image.
    falls = {"apgd-t": np.array([0.05, np.inf, 0.2]), "square": np.array([np.inf, np.inf, 0.05])}
    asked = []

    def mixed(self, spec, positions, eps, rank):
        asked.extend(zip([spec.name] * len(eps), positions.tolist(), eps.tolist(), strict=True))
        turned = falls[spec.name][positions] <= eps
        return Outputs(torch.eye(2)[torch.from_numpy(turned).long()], np.zeros(len(eps)))

    monkeypatch.setattr(Attacker, "mixed", mixed)
    labels = np.zeros(3, int)
    attacker = Attacker(Levels(), np.zeros((3, 1, 4, 4), np.uint8), labels, num_classes=2, progress=False)
    specs = [attack_spec("apgd-t"), attack_spec("square")]
    cascade = Cascade(labels, labels)
    run_cascade(attacker, cascade, specs, RADII, spare=True)
    assert cascade.fell.tolist() == [0.05, np.inf, 0.05]
    first = [("apgd-t", 0, 0.1), ("apgd-t", 1, 0.1), ("apgd-t", 2, 0.1), ("apgd-t", 0, 0.05), ("apgd-t", 0, 0.02)]
    then = [("square", 0, 0.02), ("square", 1, 0.1), ("square", 2, 0.1)]
    # The last image, found by Square, goes back to the first attack.
    again = [("apgd-t", 2, 0.05), ("square", 2, 0.05), ("apgd-t", 2, 0.02), ("square", 2, 0.02)]
    assert asked[: len(first)] == first
    assert sorted(asked) == sorted(first + then + again)
    assert cascade.spared == {f"{spec.label} {eps}": 1 for spec in specs for eps in ("0.02", "0.05")}
    asked.clear()
    run_cascade(attacker, everything := Cascade(labels, labels), specs, RADII)
    assert everything.fell.tolist() == cascade.fell.tolist()
    assert not everything.spared


def test_attacks_of_the_suite_search_on_the_copy_and_stop_where_verdicts_only_are_wanted(monkeypatch):
    seen, genuine = set(), Attacker.attack

    def attack(self, spec, *arguments, **options):
        seen.add((spec.name, self.search is not None, self.stop))
        return genuine(self, spec, *arguments, **options)

    monkeypatch.setattr(Attacker, "attack", attack)
    x, labels = np.full((4, 1, 4, 4), 0.6, np.float32), np.ones(4, int)
    attacker = Attacker(Levels(), x, labels, num_classes=2, progress=False)
    steps = dict.fromkeys(SUITE_ATTACKS, 2)
    list(run_standard(attacker, [0.05], ["a", "b"], steps=steps))
    assert seen - {("clean", True, False)} == {
        *((name, True, False) for name in SCORED),
        *((name, True, True) for name in (*ENSEMBLE, "apgd-ce")),  # APGD-CE again for the curve
    }
    seen.clear()
    list(run_attacks(attacker, [attack_spec("apgd-ce", steps=2)], [0.05], ["a", "b"]))
    assert seen == {("clean", False, False), ("apgd-ce", False, False)}


def test_the_quick_suite_has_a_name_of_its_own_and_says_what_it_leaves_out(tiny_run, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    options = ["--max-samples", "6", "--eps", "1/255,2/255", "--steps", "2"]
    assert main(["evaluate", str(run), "--suite", "quick", *options]) == 0
    document = read_evaluation(run)
    assert {entry["attack"] for entry in document["results"]} == {"clean", "worst-case-quick"}
    (curve,) = document["analyses"]["quick"]
    assert "curve" not in document["analyses"]
    standing = round(6 * curve["accuracy"][2])
    assert sum(curve["spared"].values()) >= 3 * standing
    said = capfd.readouterr().out
    assert "worst case (quick)" in said
    assert ("attacks left out on images that had withstood" in said) == (standing > 0)
    assert main(["evaluate", str(run), "--suite", "quick,standard", *options]) == 2
    assert "quick is a part of standard" in capfd.readouterr().err
