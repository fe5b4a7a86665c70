"""Reports from the field, kind 10: a device without float64, such as Apple's (pytorch#79019, pytorch#122602)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpaat.evaluation.attacking import Attacker
from dpaat.evaluation.specs import attack_spec
from dpaat.interpret import metrics
from dpaat.interpret.similarity import rank_correlation, scaled, specific_correlation, structural_similarity
from dpaat.methods import StepOutput
from dpaat.training import train
from dpaat.training.module import TrainingModule
from dpaat.training.validation import validation_scores
from training_makers import tiny_config


class Device(Tensor):
    """A tensor on a device without float64; what is made of it is there too, until it is brought to the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("cannot convert a device's tensor to numpy; bring it to the CPU first")
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is Tensor.cpu:
            return found.as_subclass(Tensor)
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, Device) and each.dtype == torch.float64:
                raise TypeError(f"{func}: the device does not support float64")
        return found


def on_device(values: Tensor) -> Tensor:
    return values.as_subclass(Device)


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            assert not (isinstance(each, Tensor) and each.dtype == torch.float64), func
        return found


X, Y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
MAPS, OTHERS, MASKS = torch.rand(4, 8, 8), torch.rand(4, 8, 8), torch.rand(4, 8, 8) > 0.5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))


def test_the_device_of_these_tests_has_no_float64():
    with pytest.raises(TypeError, match="float64"):
        on_device(X).double()
    with pytest.raises(AssertionError), NoFloat64():
        X.double()
    assert on_device(X).cpu().double().dtype == torch.float64


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (metrics.gradient_alignment, (X, 1 - X)),
        (rank_correlation, (MAPS, OTHERS)),
        (specific_correlation, (MAPS, OTHERS)),
        (structural_similarity, (MAPS, OTHERS)),
        (scaled, (MAPS,)),
        (metrics.energy_inside, (MAPS, MASKS)),
        (metrics.pointing_game, (MAPS, MASKS)),
        (metrics.top_area_iou, (MAPS, MASKS)),
        (metrics.area_chance, (MASKS,)),
        (metrics.iou_chance, (MASKS,)),
        (
            lambda x, y, maps: np.stack(metrics.deletion_insertion(network(), x, y, maps.float(), steps=4)),
            (X, Y, MAPS * 0),
        ),
        (
            lambda y, z: [*validation_scores(y, {0.0: z, 0.1: -z}, ("a", "b", "c"), "auroc").values()],
            (Y, X[:, :, 0, 0]),
        ),
    ],
)
def test_scores(function, values):
    torch.manual_seed(0)
    found = function(*map(on_device, values))
    torch.manual_seed(0)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(function(*values)))


def test_an_attacker(monkeypatch):
    def outputs(images: np.ndarray):
        attacker = Attacker(network(), images, Y.numpy(), num_classes=3, progress=False)
        if images.dtype == np.uint8:
            load = attacker.load
            monkeypatch.setattr(attacker, "load", lambda batch: tuple(map(on_device, load(batch))))
        return attacker.outputs(attack_spec("pgd", steps=2), 0.1)

    grey = (X.numpy() * 255).astype(np.uint8)
    assert outputs(grey).distance.dtype == np.float64
    sent = []
    monkeypatch.setattr(Tensor, "to", lambda self, *args, to=Tensor.to: sent.append(self.dtype) or to(self, *args))
    outputs(grey / 255)
    assert torch.float64 not in sent, "images in float64 become float32 before they go to the device"


def test_training(tiny_images, tmp_path, monkeypatch):
    step = TrainingModule.training_step

    def training_step(module: TrainingModule, batch, batch_idx: int) -> Tensor:
        with NoFloat64():
            return step(module, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", training_step)
    train(tiny_config(tiny_images, method="pgd", epochs=1, steps=1), tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_processes_tell_each_other(dtype, monkeypatch):
    index = torch.tensor([2**53 + 1, 0, 3, 1, 2])
    rows = {"adv_loss": torch.rand(5), "of_labels": torch.rand(5, 4)}
    output = StepOutput(torch.tensor(0.1), torch.randn(5, 3).to(dtype), index, rows)
    monkeypatch.setattr(TrainingModule, "trainer", SimpleNamespace(world_size=1), raising=False)
    monkeypatch.setattr(TrainingModule, "all_gather", lambda self, values: values[None])
    with NoFloat64():
        found = TrainingModule._of_all(object.__new__(TrainingModule), output, 5)
    assert torch.equal(found.logits, output.logits)
    assert found.logits.dtype == dtype
    assert torch.equal(found.index, index), "float64 cannot hold every int64"
    assert all(torch.equal(found.rows[name], each) for name, each in rows.items())
    assert float(found.loss) == pytest.approx(0.1)
