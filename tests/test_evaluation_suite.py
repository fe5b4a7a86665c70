import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpaat.errors import UserError
from dpaat.evaluation.suite import CLEAN, AttackSpec, attack_logits, attack_spec, evaluate_model, run_suite

PGD = AttackSpec("pgd", 3)
CLASSES = ["dark", "bright"]


class Brightness(nn.Module):
    """Linear in the mean of the image: the most an Linf ball can move the mean is eps."""

    def __init__(self, sharpness: float = 10.0) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, x: Tensor) -> Tensor:
        score = self.sharpness * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-score, score], dim=1)


class Returns(nn.Module):
    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor):
        return self.make(x)


@pytest.fixture
def images() -> np.ndarray:
    levels = np.array([100, 110, 120, 125, 131, 136, 150, 160], dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (8, 1, 4, 4)).copy()


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([0, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_robust_accuracy_of_a_linear_model_is_known(images, labels, batch_size) -> None:
    specs = [attack_spec("pgd", steps=20, norm="linf"), attack_spec("fgsm", steps=20, norm="linf")]
    results = evaluate_model(
        Brightness(),
        images,
        labels,
        classes=CLASSES,
        specs=specs,
        radii=[5 / 255, 10 / 255, 40 / 255],
        batch_size=batch_size,
        progress=False,
    )
    accuracy = {(r.spec.label, round(r.eps * 255)): r.metrics["accuracy"] for r in results}
    assert accuracy == {
        ("clean", 0): 1.0,
        ("PGD-20", 5): 6 / 8,
        ("PGD-20", 10): 4 / 8,
        ("PGD-20", 40): 0.0,
        ("FGSM", 5): 6 / 8,
        ("FGSM", 10): 4 / 8,
        ("FGSM", 40): 0.0,
    }


def test_clean_comes_first_and_all_images_are_scored(images, labels) -> None:
    first = next(run_suite(Brightness(), images, labels, classes=CLASSES, specs=[PGD], radii=[0.1], progress=False))
    assert first.spec == CLEAN
    assert first.eps == 0
    assert first.probabilities.shape == (8, 2)
    assert first.metrics["support"] == {"dark": 4, "bright": 4}


def test_result_is_the_same_whatever_was_evaluated_before(images, labels) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
    noisy = np.random.default_rng(0).integers(0, 256, (8, 1, 4, 4), dtype=np.uint8)
    options = {"classes": CLASSES, "specs": [PGD], "batch_size": 3, "progress": False}
    both = evaluate_model(model, noisy, labels, radii=[0.05, 0.1], **options)
    alone = evaluate_model(model, noisy, labels, radii=[0.1], **options)
    assert torch.equal(both[-1].probabilities, alone[-1].probabilities)
    other = evaluate_model(model, noisy, labels, radii=[0.1], seed=1, **options)
    assert not torch.equal(other[-1].probabilities, alone[-1].probabilities)


def test_model_is_evaluated_in_eval_mode_and_left_as_found(images, labels) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.9), Brightness())
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    twice = [
        evaluate_model(model, images, labels, classes=CLASSES, specs=[PGD], radii=[0.1], progress=False)
        for _ in range(2)
    ]
    assert [r.metrics for r in twice[0]] == [r.metrics for r in twice[1]]
    assert model[0].training
    assert not model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_verdicts_are_in_full_precision_inside_autocast(images, labels) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    options = {"num_classes": 2, "spec": CLEAN, "eps": 0.0}
    expected = attack_logits(model, images, labels, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = attack_logits(model, images, labels, **options)
    assert torch.equal(inside, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x, r"logits of shape \(8, 2\).*returned \(8, 1, 4, 4\)"),
        (lambda x: x.flatten(1)[:, :3], r"returned \(8, 3\)"),
        (lambda x: (x, x), "returned a tuple"),
        (lambda x: x.flatten(1)[:, :2] * float("nan"), "NaN or infinite outputs for 8 of 8 images"),
        (lambda x: x.flatten(1)[:, :2].long(), "int64"),
    ],
)
def test_models_that_are_no_classifier_are_one_line(images, labels, make, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        evaluate_model(Returns(make), images, labels, classes=CLASSES, specs=[PGD], radii=[0.1], progress=False)
    assert "\n" not in str(caught.value)


def test_bad_attacks_are_one_line(images, labels) -> None:
    with pytest.raises(UserError, match="unknown attack 'pdg'; nearest: pgd"):
        attack_spec("pdg", steps=3, norm="linf")
    with pytest.raises(UserError, match="steps: 0 must be at least 1"):
        attack_spec("pgd", steps=0, norm="linf")
    with pytest.raises(UserError, match="no images"):
        evaluate_model(Brightness(), images[:0], labels[:0], classes=CLASSES, specs=[PGD], radii=[0.1])
