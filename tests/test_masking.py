"""Models that hide their gradient are found out, by the check meant for it; sound ones pass."""

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import broken_models as broken
from dpaat.attacks.losses import log_odds
from dpaat.errors import UserError
from dpaat.evaluation.masking_verdicts import (
    Check,
    compare,
    judge_ascent,
    judge_gradient,
    judge_large_radius,
    judge_predictions,
    judge_repeatability,
    summary,
)
from dpaat.journal import Journal

NAMES = [
    "predictions",
    "repeatability",
    "gradient",
    "start",
    "loss along the gradient",
    "large radius",
    "more budget",
    "single step",
    "black box",
    "transfer",
    "targets",
]
TRAINING, TEST = broken.split(*broken.digits())


@pytest.fixture(scope="module")
def standard() -> nn.Module:
    return broken.standard(*TRAINING)


@pytest.fixture(scope="module")
def adversarial() -> nn.Module:
    return broken.adversarial(*TRAINING)


@pytest.fixture(scope="module")
def sound(standard, adversarial) -> dict[str, nn.Module]:
    return {"standard": standard, "adversarial": adversarial}


def examine(model: nn.Module, data: tuple[np.ndarray, np.ndarray] = TEST, **options: object) -> dict[str, Check]:
    classes = [str(k) for k in range(int(data[1].max()) + 1)]
    chosen = {"eps": broken.EPS, "steps": 10, "queries": 100, "max_samples": 50, "progress": False, **options}
    checks = broken.masking_checks(model, *data, classes=classes, **chosen)
    assert [check.name for check in checks] == NAMES
    assert json.loads(json.dumps([asdict(check) for check in checks])) == [asdict(check) for check in checks]
    return {check.name: check for check in checks}


def verdict(checks: dict[str, Check]) -> str:
    return summary(list(checks.values()))[0]


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.verdict == "fail"}


@pytest.mark.parametrize("kind", ["standard", "adversarial"])
def test_sound_models_pass_everything(sound, kind) -> None:
    checks = examine(sound[kind])
    assert {check.verdict for name, check in checks.items() if name != "transfer"} == {"pass"}
    assert checks["transfer"].verdict == "skipped"
    assert verdict(checks) == "believable"
    fell = checks["targets"].values["fallen"][1] / checks["targets"].values["images"]
    assert 0.2 < fell < 0.8, "attacks are to be compared where they can differ"


@pytest.mark.parametrize(
    ("wrapper", "signs"),
    [
        (broken.Scaled, {"gradient", "large radius", "targets"}),
        (broken.Quantizer, {"gradient", "start", "loss along the gradient", "large radius"}),
        (broken.IntegerQuantizer, {"gradient"}),
        (broken.Noisy, {"repeatability"}),
        (broken.Shifted, {"repeatability"}),
        (broken.FlatAtImages, {"start", "loss along the gradient"}),
    ],
)
@pytest.mark.parametrize("kind", ["standard", "adversarial"])
def test_hidden_gradients_are_found(sound, kind, wrapper, signs) -> None:
    checks = examine(wrapper(sound[kind]))
    assert verdict(checks) == "masked"
    assert signs <= failed(checks)


def test_catastrophic_overfitting_is_found() -> None:
    checks = examine(broken.catastrophically_overfitted(*TRAINING), eps=broken.OVERFITTING_EPS)
    assert verdict(checks) == "masked"
    assert "loss along the gradient" in failed(checks)


def test_a_constant_model_is_degenerate() -> None:
    checks = examine(broken.Constant(10))
    assert verdict(checks) == "degenerate"
    assert {name for name, check in checks.items() if check.verdict == "skipped"} == set(NAMES[2:])


def test_quantizing_with_a_gradient_hides_nothing(adversarial) -> None:
    assert not failed(examine(broken.StraightThrough(adversarial)))


@pytest.mark.parametrize(("classes", "channels"), [(2, 3), (3, 1)])
def test_any_number_of_classes_and_channels(classes, channels) -> None:
    training, test = broken.split(*broken.digits(classes, channels))
    model = broken.standard(*training)
    assert verdict(examine(model, test)) == "believable"
    assert failed(examine(broken.Scaled(model), test)) == {"gradient", "large radius", "targets"}


def test_l2(standard) -> None:
    assert verdict(examine(standard, norm="l2", eps=1.5)) == "believable"
    checks = examine(broken.Quantizer(standard), norm="l2", eps=1.5)
    assert {"gradient", "start", "black box"} <= failed(checks)
    assert "L2 1.5" in checks["black box"].evidence


def test_transfer_needs_a_source(standard, adversarial) -> None:
    assert examine(adversarial, source=standard)["transfer"].verdict == "pass"
    assert "transfer" in failed(examine(broken.Quantizer(standard), source=standard))


def test_answers_at_random_are_attacked_on_their_mean(standard) -> None:
    values = examine(broken.Noisy(standard))["repeatability"].values
    assert values["difference"] > 0.01
    assert values["fallen_in_mean"] > 0


class Counted(nn.Module):
    """Counts images; breaks off after so many."""

    def __init__(self, model: nn.Module, limit: float = float("inf")) -> None:
        super().__init__()
        self.model, self.limit, self.images = model, limit, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.images >= self.limit:
            raise KeyboardInterrupt
        self.images += len(x)
        return self.model(x)


def test_costs_no_more_than_it_says(adversarial) -> None:
    model, images, steps, queries = Counted(adversarial), 50, 15, 200
    examine(model, source=adversarial, steps=steps, queries=queries, max_samples=images)
    # An input gradient costs one forward pass more than is counted here.
    assert model.images <= images * (steps * (9 + 9) + queries + 280)


def test_an_interrupted_examination_ends_as_an_unbroken_one(standard, tmp_path) -> None:
    options = {"batch_size": 16, "steps": 2, "queries": 10, "max_samples": 24}
    noisy = broken.Noisy(standard)
    whole = Counted(noisy)
    state = torch.get_rng_state()
    expected = examine(whole, journal=Journal(), **options)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(KeyboardInterrupt):
        examine(Counted(noisy, whole.images // 2), journal=Journal(tmp_path / "j"), **options)
    rest = Counted(noisy)
    assert examine(rest, journal=Journal(tmp_path / "j"), **options) == expected
    assert whole.images // 3 < rest.images < whole.images
    again = Counted(noisy)
    assert examine(again, journal=Journal(tmp_path / "j"), **options) == expected
    assert again.images == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.flatten(1) * torch.nan, "NaN"),
        (lambda x: x.flatten(1)[:, :3], "logits"),
    ],
)
def test_bad_outputs_are_one_line(model: Callable[[Tensor], Tensor], message) -> None:
    class Bad(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x[:, :, :1].repeat(1, 1, 1, 2)[..., :10])

    with pytest.raises(UserError, match=message) as caught:
        examine(Bad())
    assert "\n" not in str(caught.value)


def test_log_odds_do_not_saturate() -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0], [1e4, 0.0, 0.0]])
    y = torch.tensor([0, 0, 0])
    assert torch.allclose(F.softplus(log_odds(logits, y)), F.cross_entropy(logits, y, reduction="none"))
    assert log_odds(logits, y)[2] == pytest.approx(np.log(2) - 1e4)


def fallen(alone: int, together: int, n: int = 100, offset: int = 0) -> np.ndarray:
    marks = np.zeros(n, bool)
    marks[:together] = True
    marks[together + offset : together + offset + alone] = True
    return marks


@pytest.mark.parametrize(
    ("first", "second", "n", "p_value", "verdict"),
    [
        (5, 0, 100, 1 / 32, "fail"),
        (4, 0, 100, 1 / 16, "pass"),
        (0, 5, 100, 1, "pass"),
        (0, 0, 100, 1, "pass"),
        (9, 2, 100, 67 / 2048, "fail"),
        (5, 0, 400, 1 / 32, "pass"),
    ],
)
def test_one_attack_beats_another_beyond_noise(first, second, n, p_value, verdict) -> None:
    one, two = fallen(first, 20, n), fallen(second, 20, n, offset=first)
    check = compare("black box", ("A", one), ("B", two), radius="4/255")
    assert check.values["p_value"] == pytest.approx(p_value)
    assert check.values["alone"] == [first, second]
    assert check.values["gain"] == pytest.approx((first - second) / n)
    assert check.verdict == verdict


@pytest.mark.parametrize(("gain", "verdict"), [(19, "pass"), (21, "warn"), (31, "fail")])
def test_a_gap_warns_before_it_fails(gain, verdict) -> None:
    one, two = fallen(gain, 10), fallen(0, 10)
    assert compare("targets", ("T", one), ("CE", two), radius="4/255", gain=(0.2, 0.3)).verdict == verdict


def test_large_radius_allows_one_class_and_no_more() -> None:
    labels = np.repeat([0, 1, 2, 3], [10, 5, 4, 1])
    assert judge_large_radius(labels == 0, labels, {}).verdict == "pass"
    one_more = labels == 0
    one_more[12] = True
    assert judge_large_radius(one_more, labels, {}).verdict == "fail"


def answers(predicted: list[int], classes: int = 3) -> np.ndarray:
    """Logits with these predictions, which differ from image to image."""
    logits = np.random.default_rng(0).normal(size=(len(predicted), classes)).astype(np.float32)
    logits[np.arange(len(predicted)), predicted] += 10
    return logits


@pytest.mark.parametrize(
    ("predicted", "labels", "verdict"),
    [
        ([0] * 60, [0] * 40 + [1] * 20, "fail"),
        ([0] * 199 + [1], [0] * 150 + [1] * 50, "fail"),
        ([0] * 58 + [1] * 2, [0] * 40 + [1] * 20, "warn"),
        ([0] * 54 + [1] * 6, [0] * 40 + [1] * 20, "pass"),
        ([0] * 60, [0] * 60, "pass"),
        ([0, 1, 2] * 3, [0, 1, 2] * 3, "warn"),
    ],
)
def test_predictions(predicted, labels, verdict) -> None:
    logits = answers(predicted)
    labels = np.array(labels)
    if verdict == "warn" and len(labels) == 60:
        logits[[58, 59]] = answers([1, 1])
        labels[58:] = 0  # the only answers that differ are wrong
    assert judge_predictions(logits, labels).verdict == verdict


def test_a_constant_answer_is_degenerate_even_if_always_right() -> None:
    logits = np.tile(np.array([[1.0, 0.0]], np.float32), (20, 1))
    assert judge_predictions(logits, np.zeros(20, int)).verdict == "fail"


def test_rounding_is_no_randomness() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 1, 3)).astype(np.float32)
    assert judge_repeatability(np.concatenate([logits, logits * (1 + 1e-6)], 1)).verdict == "pass"
    assert judge_repeatability(np.concatenate([logits, logits, logits * 1.01], 1)).verdict == "fail"


@pytest.mark.parametrize(("share", "verdict"), [(0.0, "pass"), (0.05, "warn"), (0.2, "fail")])
def test_lost_gradients(share, verdict) -> None:
    assert judge_gradient(np.arange(100) < 100 * share).verdict == verdict


@pytest.mark.parametrize(
    ("rising", "lower", "many_steps", "verdict"),
    [
        (1.0, 0.0, 0.5, "pass"),
        (0.8, 0.0, 0.5, "warn"),
        (0.5, 0.0, 0.5, "fail"),
        (1.0, 0.1, 0.5, "warn"),
        (1.0, 0.3, 0.5, "fail"),
        (1.0, 0.0, 0.25, "warn"),
        (1.0, 0.0, 0.1, "fail"),
        (1.0, 0.0, 1.0, "pass"),
    ],
)
def test_loss_along_the_gradient(rising, lower, many_steps, verdict) -> None:
    odds = np.zeros((100, 4))
    odds[: int(100 * rising), 1] = 1
    odds[:, 2:] = 2
    odds[: int(100 * lower), 2] = -1
    standing = np.ones((100, 4), bool)
    standing[:40, 3] = False
    check = judge_ascent(odds, standing, ["1/255", "2/255", "3/255"], many_steps)
    assert check.verdict == verdict
    assert check.values["lower"] == [lower, 0]
    assert check.values["gap"] == pytest.approx(0.6 - many_steps)


def test_summary_names_what_speaks_against() -> None:
    good, doubt, bad = (Check(kind, kind, "") for kind in ("pass", "warn", "fail"))
    assert summary([good]) == ("believable", "believable (1 passed)")
    assert summary([good, doubt]) == ("suspicious", "suspicious (1 passed; warns of: warn)")
    assert summary([bad, doubt])[0] == "masked"
    assert summary([Check("predictions", "fail", ""), bad])[0] == "degenerate"
