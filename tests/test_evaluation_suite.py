import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from dpaat.errors import UserError
from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.results import check_results, read_evaluation
from dpaat.evaluation.specs import CLEAN, AttackSpec, attack_spec
from dpaat.evaluation.suite import evaluate_model, run_attacks, run_ensemble, run_standard
from dpaat.evaluation.tables import analyses_summary

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


@pytest.mark.parametrize("specs", [[attack_spec("fab-t", steps=2)], None])
@pytest.mark.parametrize("radii", [[0.2, 0.1], [0.1, 0.1], np.array([0.1, 0.3, 0.2])])
def test_radii_out_of_order_are_refused(images, labels, specs, radii, tmp_path) -> None:
    options = {"classes": CLASSES, "radii": radii, "progress": False}
    for out in (None, tmp_path):
        with pytest.raises(UserError, match=r"out of order; write radii from small to large|given twice"):
            evaluate_model(Brightness(), images, labels, specs=specs, out=out, **options)
    attacker = Attacker(Brightness(), images, labels, num_classes=2, progress=False)
    runs = [run_standard(attacker, radii, CLASSES), run_attacks(attacker, specs or [PGD], radii, CLASSES)]
    for run in [*runs, run_ensemble(attacker, [PGD], [PGD], radii, CLASSES)]:
        with pytest.raises(UserError, match="radii"):
            next(run)


def test_no_radius_or_0_is_the_clean_result_alone(images, labels) -> None:
    for radii in ([], [0.0], np.array([0.0])):
        (clean,) = evaluate_model(
            Brightness(), images, labels, classes=CLASSES, specs=[PGD], radii=radii, progress=False
        )
        assert clean.eps == 0


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
    attacker = Attacker(Brightness(), images, labels, num_classes=2, progress=False)
    first = next(run_attacks(attacker, [PGD], [0.1], CLASSES))
    assert first.spec == CLEAN
    assert first.eps == 0
    assert first.probabilities.shape == (8, 2)
    assert first.metrics["support"] == {"dark": 4, "bright": 4}


def test_an_ensemble_attacks_what_stands_and_ends_in_the_worst_case(images, labels, monkeypatch) -> None:
    asked: list[tuple[str, int, list[int] | None]] = []
    outputs = Attacker.outputs

    def note(self, spec, eps=0.0, positions=None):
        asked.append((spec.label, round(eps * 255), None if positions is None else positions.tolist()))
        return outputs(self, spec, eps, positions)

    mixed = Attacker.mixed

    def note_mixed(self, spec, positions, eps, rank):
        asked.extend((spec.label, round(e * 255), positions[eps == e].tolist()) for e in np.unique(eps))
        return mixed(self, spec, positions, eps, rank)

    monkeypatch.setattr(Attacker, "outputs", note)
    monkeypatch.setattr(Attacker, "mixed", note_mixed)
    attacker = Attacker(Brightness(), images, labels, num_classes=2, progress=False)
    fgsm, pgd, square = AttackSpec("fgsm"), AttackSpec("pgd", 20), AttackSpec("square", 5)
    found = list(run_ensemble(attacker, [fgsm], [pgd, square], [5 / 255, 10 / 255], CLASSES))
    everything = [("clean", 0, None), ("FGSM", 5, None), ("FGSM", 10, None)]
    standing = [(5, [0, 1, 2, 5, 6, 7]), (10, [0, 1, 6, 7])]  # one step fells all that can be felled
    assert asked == everything + [(label, *rest) for label in ("PGD-20", "SQUARE-5") for rest in standing]
    assert [(r.spec.label, r.metrics["accuracy"]) for r in found[-2:]] == [
        ("worst of FGSM, PGD-20, SQUARE-5", 6 / 8),
        ("worst of FGSM, PGD-20, SQUARE-5", 4 / 8),
    ]
    fell_to = found[-1].fell_to
    assert fell_to is not None
    assert fell_to.tolist() == ["", "", *["FGSM"] * 4, "", ""]
    assert found[-1].probabilities is None


def test_suites_of_other_budgets_stand_side_by_side(images, labels, tmp_path) -> None:
    strong = {"pgd": 4, "apgd-ce": 3, "apgd-t": 3, "fab-t": 3, "square": 4}
    for steps in (strong, dict.fromkeys(strong, 1), strong):
        options = {"classes": CLASSES, "radii": [10 / 255], "steps": steps, "progress": False}
        evaluate_model(Brightness(), images, labels, out=tmp_path, **options)
    document = read_evaluation(tmp_path)
    worst = [entry for entry in document["results"] if entry["attack"] == "worst-case"]
    assert [entry["budgets"] for entry in worst] == [dict.fromkeys(strong, 1), strong]
    assert len({entry["label"] for entry in worst}) == len({entry["predictions"] for entry in worst}) == 2
    check_results(tmp_path)
    assert [curve["budgets"] for curve in document["analyses"]["curve"]] == [dict.fromkeys(strong, 1), strong]
    console = Console(width=300, record=True)
    console.print(analyses_summary(document))
    assert "worst case (PGD-4, APGD-CE-3, APGD-T-3, FAB-T-3, SQUARE-4) over growing radii" in console.export_text()


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
    attacker = Attacker(model, images, labels, num_classes=2, progress=False)
    expected = attacker.outputs(CLEAN).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = attacker.outputs(CLEAN).logits
    assert torch.equal(inside, expected)


def test_search_in_half_precision_is_judged_in_full(images, labels) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
    seen = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    attacker = Attacker(model, images, labels, num_classes=2, precision="bf16", progress=False)
    outputs = attacker.outputs(PGD, 0.1)
    assert seen == [torch.bfloat16] * 3 + [torch.float32]
    assert outputs.logits.dtype == torch.float32


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
    for changed, message in [
        ({"images": images[:0], "labels": labels[:0]}, "no images"),
        ({"labels": labels + 1}, r"label 2 is outside 0 to 1 \(4 such images\)"),
        ({"labels": labels[:3]}, "8 images but labels of shape"),
        ({"images": images / 128}, "floating in .0, 1.*normalization"),
        ({"images": images.astype(np.int64)}, "int64"),
        ({"images": images / 255 - np.float32("nan")}, "floating in"),
    ]:
        given = {"images": images, "labels": labels} | changed
        with pytest.raises(UserError, match=message) as caught:
            evaluate_model(Brightness(), **given, classes=CLASSES, specs=[PGD], radii=[0.1], progress=False)
        assert "\n" not in str(caught.value)


def test_floating_images_are_as_good_as_bytes(images, labels) -> None:
    options = {"classes": CLASSES, "specs": [PGD], "radii": [0.1], "progress": False}
    expected = evaluate_model(Brightness(), images, labels, **options)
    found = evaluate_model(Brightness(), images.astype(np.float32) / 255, labels, **options)
    assert torch.equal(found[-1].probabilities, expected[-1].probabilities)
