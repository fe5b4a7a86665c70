import shutil
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.stats import norm as normal
from torch import nn

from dpaat.benchmark.plans import digest
from dpaat.cli import main
from dpaat.errors import UserError
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.certified import ABSTAINS, certify, outvoted, run_certified
from dpaat.evaluation.results import read_evaluation
from dpaat.journal import Journal
from dpaat.measurement import EvaluateConfig
from dpaat.methods import MethodContext, build_method, find_method

SIGMA, WIDTH = 0.25, 4


class Plane(nn.Module):
    """Two classes on either side of the plane where the mean of an image is 1/2.

    Smoothed, its radius is the distance from the plane, whatever the noise (Cohen et al. 2019, appendix B).
    """

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        self.calls += 1
        lead = self.scale * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-lead, lead], 1)


def distance(level):
    return (level - 0.5) * sqrt(WIDTH * WIDTH)


@pytest.fixture
def images():
    level = np.array([0.52, 0.55, 0.6, 0.65, 0.48, 0.4])
    return np.broadcast_to(level[:, None, None, None], (6, 1, WIDTH, WIDTH)).astype(np.float32)


def test_the_known_radius_lies_within_its_bound_in_2000_draws():
    """A certificate may exceed the true radius with a chance of at most alpha."""
    rng = np.random.default_rng(0)
    draws, alpha = 1000, 0.001
    for true in (0.02, 0.1, 0.25, 0.6):
        counts = rng.binomial(draws, normal.cdf(true / SIGMA), 2000)
        answer, radius = certify(np.ones(2000, int), counts, draws, sigma=SIGMA, alpha=alpha)
        assert (radius <= true).mean() >= 0.995
        assert ((answer == ABSTAINS) == (radius == 0)).all()
        if true > 0.1:
            assert np.median(radius) > 0.8 * true


def test_no_certificate_without_a_majority():
    answer, radius = certify(np.zeros(3, int), np.array([0, 50, 100]), 100, sigma=1.0, alpha=0.001)
    assert answer.tolist() == [ABSTAINS, ABSTAINS, 0]
    assert radius[:2].tolist() == [0, 0]
    assert radius[2] == pytest.approx(normal.ppf(0.001 ** (1 / 100)))  # all draws: alpha to the 1 / n, as in the paper


@pytest.mark.parametrize("name", ["l2", "linf"])
def test_images_are_certified_and_attacked_up_to_the_plane(name, images):
    unit = 1.0 if name == "l2" else sqrt(WIDTH * WIDTH)
    radii = [each / unit for each in (0.04, 0.1, 0.3, 0.5, 0.7)]
    attacker = Attacker(Plane(), images, np.array([1, 1, 1, 1, 1, 0]), num_classes=2, progress=False)
    (found,) = run_certified(attacker, radii, norm=name, sigmas=[SIGMA], draws=2000)
    true = np.abs([distance(level) for level in images[:, 0, 0, 0]]) / unit
    radius = np.array(found["radius"])
    assert (radius <= true + 1e-6).all()
    assert (radius[1:4] > 0.75 * true[1:4]).all()
    assert all(proven <= held for proven, held in zip(found["certified"], found["attacked"], strict=True))
    assert found["attacked"][2:] == [pytest.approx(3 / 6), pytest.approx(1 / 6), 0.0][: len(radii) - 2]
    assert found["certified"][-1] == 0.0
    assert found["accuracy"] < 1  # the fifth is on the wrong side


def test_what_was_counted_is_not_counted_again(images, tmp_path):
    model = Plane()
    options = {"num_classes": 2, "progress": False, "journal": Journal(tmp_path)}
    attacker = Attacker(model, images, np.array([1, 1, 1, 1, 1, 0]), **options)
    first = run_certified(attacker, [0.1], norm="l2", sigmas=[SIGMA], draws=1500)
    calls = model.calls
    assert run_certified(attacker, [0.1], norm="l2", sigmas=[SIGMA], draws=1500) == first
    assert model.calls == calls
    other = Attacker(Plane(), images, np.array([1, 1, 1, 1, 1, 0]), seed=1, num_classes=2, progress=False)
    assert run_certified(other, [0.1], norm="l2", sigmas=[SIGMA], draws=1500) != first


def test_a_run_is_certified_and_reported(tiny_run, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    options = ["--sigma", "0.1,0.25", "--draws", "100", "--max-samples", "6", "--eps", "1/255", "--norm", "l2"]
    assert main(["evaluate", str(run), "--suite", "certified", *options]) == 0
    assert "smoothed classifier, 100 noise draws" in capfd.readouterr().out
    (entry,) = read_evaluation(run)["analyses"]["certified"]
    assert [each["sigma"] for each in entry["noise"]] == [0.1, 0.25]
    assert len(entry["ids"]) == len(entry["noise"][0]["radius"]) == entry["n"]
    assert main(["report", str(run), "--no-images", "--out", str(tmp_path / "page.html")]) == 0
    assert "What is proven" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_noise_out_of_range_is_one_line(tiny_run, capfd):
    assert main(["evaluate", str(tiny_run), "--suite", "certified", "--sigma", "0.1,x"]) == 2
    assert main(["evaluate", str(tiny_run), "--suite", "certified", "--sigma", "3"]) == 2
    said = capfd.readouterr().err
    assert "sigma: '0.1,x' is not numbers" in said
    assert "must be numbers above 0" in said


def test_plans_without_noise_keep_their_digest():
    assert digest(EvaluateConfig()) == digest(EvaluateConfig(sigma="0.12,0.25,0.5", draws=1000))
    assert digest(EvaluateConfig(suites="certified")) != digest(EvaluateConfig(suites="certified", draws=500))


def test_the_method_gaussian_learns_from_noisy_images():
    x, y = torch.full((64, 1, WIDTH, WIDTH), 0.5), torch.zeros(64, dtype=torch.int64)
    context = MethodContext(y, 2, 1, lambda logits, y: logits[:, 0], 0.0, 1, "linf", 0.0)
    seen = []

    class Seen(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 2, requires_grad=True)

    for sigma in (0.1, 0.5):
        build_method(find_method("gaussian"), context, {"sigma": sigma})(Seen(), torch.arange(64), x, y)
        assert (seen[-1] - x).std().item() == pytest.approx(sigma, rel=0.15)
    with pytest.raises(UserError, match="sigma must lie in"):
        build_method(find_method("gaussian"), context, {"sigma": 0.0})


def test_a_class_that_wins_without_a_majority_is_not_broken_by_nothing():
    wins, loses, even = [450, 300, 250], [300, 450, 250], [400, 400, 200]
    found = outvoted(np.array([wins, loses, even]), np.zeros(3, np.int64), 0.001)
    assert found.tolist() == [False, True, False]
    draws = np.random.default_rng(0).multinomial(1000, [0.45, 0.45, 0.1], size=20_000)
    assert outvoted(draws, np.zeros(20_000, np.int64), 0.05).mean() <= 0.05, "the truth is a tie"
    two = np.random.default_rng(0).multinomial(1000, [0.5, 0.5], size=20_000)
    assert 0.03 <= outvoted(two, np.zeros(20_000, np.int64), 0.05).mean() <= 0.05
