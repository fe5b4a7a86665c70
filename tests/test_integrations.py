"""The loss for other loops is that of `dpaat train`; datasets number their samples; what does not fit is told."""

import copy
import math
import pickle
import warnings

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from dpaat import AdaptivePerturbation, AdversarialLoss, Indexed, evaluate
from dpaat.errors import UserError
from dpaat.integrations.lightning import DPAATCallback
from dpaat.integrations.loss import parts
from dpaat.methods import METHODS
from dpaat.training import train
from dpaat.training.module import TrainingModule
from processes_launch import in_processes
from training_makers import make_images, tiny_config

COUNT, CLASSES = 24, 3
LABELS = torch.arange(COUNT) % CLASSES
IMAGES = torch.rand(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(classes: int = CLASSES) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, classes))


def fit(model: nn.Module, loss: AdversarialLoss, epochs: range, images: torch.Tensor = IMAGES) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in epochs:
        for index in torch.arange(COUNT).split(8):
            loss(model, index, images[index], LABELS[index], epoch=epoch).backward()
            optimizer.step()
            optimizer.zero_grad()


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


# --- the loss


@pytest.mark.parametrize("method", ["dpaat", "dpaat-half", "pgd"])
def test_it_is_what_dpaat_train_learns_from(tmp_path, monkeypatch, method):
    config = tiny_config(make_images(tmp_path / "images"), method=method, epochs=4, augment="none", batch_size=27)
    seen, own_step = [], TrainingModule.training_step

    def both(self: TrainingModule, batch, batch_idx):
        index, images, y = batch
        if not seen:
            seen.append(copy.deepcopy(self.model))
            seen.append(AdversarialLoss(seen[0], self.method.context.labels, epochs=4, method=method, steps=2))
        twin, loss = seen[:2]
        twin.load_state_dict(self.model.state_dict())
        x = (images.float() / 255).contiguous(memory_format=torch.channels_last)
        found = loss(twin, index, x, y, epoch=self.current_epoch)
        expected = own_step(self, batch, batch_idx)
        seen.append((found.item(), expected.item()))
        return expected

    monkeypatch.setattr(TrainingModule, "training_step", both)
    train(config, tmp_path / "run")
    losses = seen[2:]
    assert len(losses) >= 4
    assert all(found == expected for found, expected in losses)
    if method != "pgd":
        state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        assert torch.equal(state["method.perturbation.eps"], seen[1].perturbation.eps)
        assert seen[1].perturbation.visits.sum() > 0


def test_it_goes_on_bit_for_bit_from_its_state():
    whole = network()
    loss = AdversarialLoss(whole, LABELS, epochs=6, clean_weight=0.5, steps=2)
    fit(whole, loss, range(4))
    model = network()
    model.load_state_dict(whole.state_dict())
    again = AdversarialLoss(model, LABELS, epochs=6, clean_weight=0.5, steps=2)
    again.load_state_dict(pickle.loads(pickle.dumps(loss.state_dict())))
    fit(whole, loss, range(4, 6))
    fit(model, again, range(4, 6))
    assert_same(whole.state_dict(), model.state_dict())
    assert_same(loss.state_dict(), again.state_dict())
    assert loss.perturbation.visits.float().mean() > 1


def test_the_teacher_is_the_network_as_the_attacks_began_even_wrapped():
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> dict:
            return type("Output", (), {"logits": self.module(x)})()

    model = network()
    loss = AdversarialLoss(model, LABELS, epochs=2, steps=1)
    wrapped = Wrapped(model)
    fit(wrapped, loss, range(1))
    then = copy.deepcopy(model.state_dict())
    fit(wrapped, loss, range(1, 2))
    assert_same({f"model.{name}": value for name, value in then.items()}, loss.method.teacher.network.state_dict())
    assert not torch.equal(model[1].weight, then["1.weight"])


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_the_teacher_is_the_network_as_the_attacks_began_whatever_was_changed(wrap):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()
            self.register_buffer("scale", torch.ones(1), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * self.scale

    model = Scaled()
    loss = AdversarialLoss(model, LABELS, epochs=2, steps=1)
    model.double()
    model.inner[3].weight.data += 1e-12  # beyond float32
    model.scale.fill_(5.0)
    images, shown = IMAGES.double(), wrap(model)
    fit(shown, loss, range(1), images)
    then = copy.deepcopy(model)
    fit(shown, loss, range(1, 2), images)
    teacher = loss.method.teacher.network
    assert torch.equal(teacher(images), then(images))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    again = AdversarialLoss(Scaled(), LABELS, epochs=2, steps=1)
    again.load_state_dict(loss.state_dict())
    torch.testing.assert_close(again.method.teacher.network(IMAGES), then.float()(IMAGES) / 5)


def test_a_model_that_cannot_be_copied_is_told(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(192, CLASSES)))
    said = r"^self_teacher: the model cannot be copied \(Only Tensors .*\); give self_teacher=0$"
    with pytest.raises(UserError, match=said):
        AdversarialLoss(model, LABELS, epochs=2)
    fit(model, AdversarialLoss(model, LABELS, epochs=2, steps=1, self_teacher=0), range(2))
    with pytest.raises(UserError, match="Sequential: cannot be copied: Only Tensors"):
        evaluate(model, (IMAGES, LABELS), out=tmp_path)


def test_images_that_the_loader_normalized_are_attacked_as_they_were():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    columns = [torch.tensor(values).reshape(3, 1, 1) for values in (mean, std)]

    class Normalizing(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward((x - columns[0]) / columns[1])

    inside, outside = Normalizing(*network()), network()
    losses = [
        AdversarialLoss(inside, LABELS, epochs=2, clean_weight=0, steps=2),
        AdversarialLoss(outside, LABELS, epochs=2, clean_weight=0, steps=2, normalized=(mean, std)),
    ]
    fit(inside, losses[0], range(2))
    fit(outside, losses[1], range(2), (IMAGES - columns[0]) / columns[1])
    assert torch.allclose(losses[0].perturbation.eps, losses[1].perturbation.eps, atol=1e-5)
    assert losses[0].perturbation.eps.unique().numel() > 2


def test_without_gradients_it_is_the_clean_loss_and_moves_nothing():
    model = network()
    loss = AdversarialLoss(model, LABELS, epochs=1, method="dpaat-half", imbalance="none")
    with torch.no_grad():
        found = loss(model, torch.arange(COUNT), IMAGES, LABELS, epoch=0)
    assert found.item() == pytest.approx(cross_entropy(model(IMAGES), LABELS).item())
    assert not loss.perturbation.visits.any()


def call(**changes):
    given = {"index": torch.arange(4), "x": IMAGES[:4], "y": LABELS[:4], "epoch": 0, "model": network()} | changes
    return lambda loss: loss(**given)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (call(x=IMAGES[:4] * 255), "images must lie in"),
        (call(x=IMAGES[:4] - 0.5), "leave normalization to the model"),
        (call(y=torch.tensor([1, 1, 2, 0])), "sample 0 has label 1, but label 0"),
        (call(x=IMAGES[:4].bfloat16(), model=network().bfloat16()), "give float32 images and use torch.autocast"),
        (call(index=torch.arange(22, 26)), "index must lie in 0 to 23"),
        (call(index=torch.arange(4.0)), "index must be sample numbers"),
        (call(index=torch.ones(4, dtype=torch.bool)), "index must be sample numbers"),
        (call(index=[0, 1, 2, 3]), "index must be a tensor of one sample or more, not a list"),
        (call(x=IMAGES[:4].numpy()), "x must be a tensor of one sample or more, not a ndarray"),
        (call(y=[0, 1, 2, 0]), "y must be a tensor of one sample or more, not a list"),
        (call(index=torch.arange(0), x=IMAGES[:0], y=LABELS[:0]), "index must .* not an empty one"),
        (call(y=LABELS[:4].float()), "labels must be class numbers"),
        (call(epoch=4), "told 4 epochs"),
        (call(model=network(2)), "there are 3 classes, but the model tells 2 apart"),
    ],
)
def test_a_wrong_batch_is_told_in_the_first_epoch_already(step, said):
    with pytest.raises(UserError, match=said) as error:
        step(AdversarialLoss(network(), LABELS, epochs=4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["dpaat", "dpaat-balanced", "cat", "pgd"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_an_index_of_any_integers_is_that_of_int64(method, dtype):
    losses = []
    for kind in (torch.int64, dtype):
        model = network()
        loss = AdversarialLoss(model, LABELS, epochs=2, steps=1, method=method)
        index = torch.arange(8, 16)
        for epoch in range(2):
            found = loss(model, index.to(kind), IMAGES[index], LABELS[index], epoch=epoch)
            losses.append((epoch, kind, found.item()))
    assert [value for _, kind, value in losses if kind == dtype] == [value for *_, value in losses[:2]]


@pytest.mark.parametrize("imbalance", ["none", "weights", "balanced-softmax"])
def test_a_class_without_an_image_is_to_be_named(imbalance):
    options = {"epochs": 2, "steps": 1, "imbalance": imbalance}
    wide = call(model=network(5))
    with pytest.raises(UserError, match="the model tells 5 classes apart, the labels 3; give num_classes=5"):
        wide(AdversarialLoss(network(5), LABELS, **options))
    assert wide(AdversarialLoss(network(5), LABELS, num_classes=5, **options)).isfinite()
    mine = {"loss": nn.CrossEntropyLoss(reduction="none")}
    if imbalance != "none":
        with pytest.raises(UserError, match=f"imbalance='{imbalance}' would be ignored"):
            AdversarialLoss(network(5), LABELS, **mine, **options)
    own = AdversarialLoss(network(5), LABELS, **mine, **{**options, "imbalance": None})
    for epoch in range(2):
        assert call(model=network(5), epoch=epoch)(own).isfinite()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_images_may_require_a_gradient(method):
    losses = []
    for x in (IMAGES[:8].clone(), IMAGES[:8].clone().requires_grad_()):
        model = network()
        loss = AdversarialLoss(model, LABELS, epochs=2, steps=2, method=method)
        torch.manual_seed(0)
        found = [loss(model, torch.arange(8), x, LABELS[:8], epoch=epoch) for epoch in range(2)]
        found[1].backward()
        losses.append([each.item() for each in found])
    assert losses[0] == losses[1]


def test_a_loss_over_the_whole_batch_is_refused_at_once():
    with pytest.raises(UserError, match="reduction"):
        call()(AdversarialLoss(network(), LABELS, epochs=4, loss=nn.CrossEntropyLoss()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "dpat"}, "nearest: dpaat"),
        ({"clean_weight": 1.5}, "clean_weight"),
        ({"epochs": 0}, "epochs"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"labels": LABELS.float()}, "labels must be class numbers"),
        ({"labels": []}, "labels must be class numbers"),
        ({"num_classes": 2}, "num_classes must be above the highest label, 2, not 2"),
        ({"num_classes": -1}, "num_classes must be above the highest label, 2, not -1"),
        ({"damp": 0.1}, "damp"),
    ],
)
def test_wrong_arguments(options, said):
    with pytest.raises(UserError, match=said):
        AdversarialLoss(network(), **{"labels": LABELS, "epochs": 4} | options)


def test_a_second_training_needs_a_loss_of_its_own():
    model = network()
    loss = AdversarialLoss(model, LABELS, epochs=3, steps=1)
    fit(model, loss, range(3))
    with pytest.raises(UserError, match="make a new one"):
        fit(model, loss, range(1))


def test_to_begin_in_the_middle_without_a_state_is_said():
    model = network()
    with pytest.warns(UserWarning, match="load its state_dict"):
        fit(model, AdversarialLoss(model, LABELS, epochs=4, steps=1), range(2, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, AdversarialLoss(model, LABELS, epochs=4, steps=1), range(4))


# Attacks through the wrapper, which broadcasts BatchNorm's buffers at every pass, never ended: their lengths differ.
def test_two_processes_hold_the_same_sizes_and_weights(tmp_path):
    def work(rank: int) -> None:
        torch.distributed.init_process_group("gloo", init_method="env://", rank=rank, world_size=2)
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES))
        model = nn.parallel.DistributedDataParallel(plain)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = AdversarialLoss(plain, LABELS, epochs=4, clean_weight=0.5)
        for epoch in range(4):
            for batch in torch.arange(COUNT).split(7):
                index = batch[rank::2]
                loss(model, index, IMAGES[index], LABELS[index], epoch=epoch).backward()
                optimizer.step()
                optimizer.zero_grad()
        weights = {name: value.detach() for name, value in plain.named_parameters()}
        torch.save(loss.state_dict() | weights, tmp_path / f"{rank}.pt")
        torch.distributed.destroy_process_group()

    assert in_processes(2, work, tmp_path / "outcomes", seconds=60) == ["", ""]
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    shared = [name for name in one if not name.startswith("method.teacher.network.model.1.")]  # BatchNorm's own
    assert_same({name: one[name] for name in shared}, {name: other[name] for name in shared})
    assert one["method.perturbation.visits"].sum() == COUNT
    assert one["method.perturbation.eps"].unique().numel() > 1


# --- numbered datasets


class Dictionaries(Dataset):
    classes = ("a", "b", "c")

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> dict:
        return {"image": IMAGES[number], "label": int(LABELS[number])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(IMAGES, LABELS, strict=True))


def test_tuples_and_dictionaries_get_their_number():
    numbered = Indexed(TensorDataset(IMAGES, LABELS))
    assert len(numbered) == COUNT
    assert numbered[5][0] == 5
    assert numbered[-1][0] == COUNT - 1
    assert torch.equal(numbered[5][1], IMAGES[5])
    assert Indexed(Dictionaries())[7].keys() == {"image", "label", "index"}
    assert [item["index"] for item in Indexed(Dictionaries()).__getitems__([3, 1])] == [3, 1]


def test_crops_of_one_sample_share_its_number():
    assert Indexed([[{"image": 0}, {"image": 1}]])[0] == [{"image": 0, "index": 0}, {"image": 1, "index": 0}]


def test_batches_are_read_at_once_where_the_dataset_can():
    class AtOnce(Dictionaries):
        asked = ()

        def __getitems__(self, numbers):
            AtOnce.asked = (*AtOnce.asked, tuple(numbers))
            return [self[number] for number in numbers]

    batch = next(iter(DataLoader(Indexed(AtOnce()), batch_size=4)))
    assert AtOnce.asked == ((0, 1, 2, 3),)
    assert batch["index"].tolist() == [0, 1, 2, 3]


def test_all_else_is_that_of_the_dataset():
    dataset = Dictionaries()
    numbered = Indexed(dataset)
    assert numbered.classes == ("a", "b", "c")
    numbered.transform = "new"
    assert dataset.transform == "new"
    with pytest.raises(AttributeError, match="nothing"):
        numbered.nothing  # noqa: B018
    assert [item["index"] for item in Indexed(Subset(dataset, [9, 4]))] == [0, 1]
    assert [item["index"] for item in Subset(numbered, [9, 4])] == [9, 4]


def test_workers_read_it():
    numbered = pickle.loads(pickle.dumps(Indexed(Dictionaries())))  # as a worker gets it where it does not fork
    loader = DataLoader(numbered, batch_size=8, num_workers=1)
    assert torch.cat([batch["index"] for batch in loader]).tolist() == list(range(COUNT))


@pytest.mark.parametrize("dataset", [Stream(), iter([1]), {"train": 1}.keys()])
def test_without_numbers_is_refused(dataset):
    with pytest.raises(UserError, match="iterable-style"):
        Indexed(dataset)


@pytest.mark.parametrize("item", [IMAGES[0], (IMAGES[0],), {"image": 0, "index": 4}])
def test_items_that_cannot_be_numbered(item):
    with pytest.raises(UserError, match="Indexed"):
        Indexed([item])[0]


@pytest.mark.parametrize("batch", [(IMAGES, LABELS), {"image": IMAGES, "label": LABELS}, IMAGES])
def test_a_batch_without_numbers_names_the_remedy(batch):
    with pytest.raises(UserError, match=r"dpaat\.Indexed"):
        parts(batch)


# --- the state tells of itself


def test_the_state_tells_of_itself():
    state = AdaptivePerturbation(1000, 8 / 255)
    assert repr(state) == (
        "AdaptivePerturbation(1,000 samples, eps min / mean / max 1.60 / 1.60 / 1.60 of 255, 0% moved)"
    )
    clean = torch.linspace(0, 1, 500)
    state.update(torch.arange(500), clean + 0.001, clean)  # the half below the mean grows
    assert "25% moved" in repr(state)
    assert "8.00 of 255" in repr(state)


# --- trainers that do not fit


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch, batch_idx):
        raise AssertionError("not called")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit_lightning(loss: AdversarialLoss, module: Module, dataset: Dataset, epochs: int = 2) -> None:
    options = {"enable_checkpointing": False, "logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=epochs, callbacks=[DPAATCallback(loss)], enable_model_summary=False, **options)
    trainer.fit(module, DataLoader(dataset, batch_size=8))


def test_lightning_takes_dictionaries_and_a_module_that_is_the_network():
    class Itself(Module):
        def forward(self, x):
            return self.network(x)

    module = Itself()
    loss = AdversarialLoss(module, LABELS, epochs=2, method="dpaat-half", steps=1)
    fit_lightning(loss, module, Indexed(Dictionaries()))
    assert loss.perturbation.visits.tolist() == [2] * COUNT


def test_lightning_refuses_what_does_not_fit():
    module = Module()
    loss = AdversarialLoss(module.network, LABELS, epochs=2)
    with pytest.raises(UserError, match="same number"):
        fit_lightning(loss, module, Indexed(Dictionaries()), epochs=3)
    with pytest.raises(UserError, match="not part of this module"):
        fit_lightning(loss, Module(), Indexed(Dictionaries()))
    with pytest.raises(UserError, match=r"dpaat\.Indexed"):
        fit_lightning(loss, module, Dictionaries())
    assert "training_step" not in vars(module)
    module.automatic_optimization = False
    with pytest.raises(UserError, match="manual optimization"):
        fit_lightning(loss, module, Indexed(Dictionaries()))


def trainer_of(folder, loss: AdversarialLoss | None = None, **options):
    transformers = pytest.importorskip("transformers", reason="needs the extra integrations")
    from dpaat.integrations.huggingface import DPAATTrainer

    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3)
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config)
    model.eval()  # no batch statistics: what a batch is split into does not matter
    given = {"num_train_epochs": 2, "report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    arguments = transformers.TrainingArguments(str(folder), **given | options)
    loss = loss or AdversarialLoss(model, LABELS, epochs=2, method="dpaat-half", steps=1)
    return DPAATTrainer(model, arguments, train_dataset=Indexed(Pixels()), loss=loss)


class Pixels(Dictionaries):
    def __getitem__(self, number: int) -> dict:
        return {"pixel_values": IMAGES[number], "label": int(LABELS[number])}


def test_huggingface_accumulates_gradients_to_those_of_the_whole_batch(tmp_path):
    found = []
    for size, parts_of_it in ((12, 1), (4, 3)):
        trainer = trainer_of(tmp_path, gradient_accumulation_steps=parts_of_it, per_device_train_batch_size=size)
        for module in trainer.model.modules():
            module.train = lambda mode=True: None  # stays in eval mode
        batch = [
            trainer._prepare_inputs({"index": i, "pixel_values": IMAGES[i], "labels": LABELS[i]})
            for i in torch.arange(12).split(size)
        ]
        trainer.current_gradient_accumulation_steps = parts_of_it
        for part in batch:
            trainer.training_step(trainer.model, part, num_items_in_batch=torch.tensor(12))
        found.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert found[0].abs().max() > 1e-3


def test_huggingface_gives_the_outputs_that_are_asked_for(tmp_path):
    trainer = trainer_of(tmp_path)
    inputs = {"index": torch.arange(4), "pixel_values": IMAGES[:4], "labels": LABELS[:4]}
    for loss, outputs in (
        trainer.compute_loss(trainer.model, inputs, True, num_items_in_batch=4),
        trainer.compute_loss(trainer.model, inputs, return_outputs=True),
    ):
        assert loss.requires_grad
        assert outputs["logits"].shape == (4, CLASSES)
    assert trainer.compute_loss(trainer.model, inputs).shape == ()
    with torch.no_grad():
        clean, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    assert outputs["logits"].shape == (4, CLASSES)
    assert clean.item() == pytest.approx(cross_entropy(outputs["logits"], LABELS[:4]).item())


def test_huggingface_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(UserError, match="same number"):
        trainer_of(tmp_path, num_train_epochs=3)
    with pytest.raises(UserError, match="same number"):
        trainer_of(tmp_path, max_steps=3)
    with pytest.raises(UserError, match="label_smoothing_factor"):
        trainer_of(tmp_path, label_smoothing_factor=0.1)
    trainer = trainer_of(tmp_path)
    with pytest.raises(UserError, match=r"dpaat\.pt: missing"):
        trainer.train(resume_from_checkpoint=str(tmp_path))


def test_monai_in_a_plain_loop():
    data = pytest.importorskip("monai.data", reason="needs the extra integrations")
    transforms = pytest.importorskip("monai.transforms")
    samples = [{"image": image, "label": int(label)} for image, label in zip(IMAGES, LABELS, strict=True)]
    crops = transforms.RandSpatialCropSamplesd("image", [8, 8], num_samples=2, random_size=False)
    dataset = Indexed(data.Dataset(samples, crops))
    model = network()
    loss = AdversarialLoss(model, LABELS, epochs=1, method="dpaat-half", steps=1)
    for batch in data.DataLoader(dataset, batch_size=4):
        assert len(batch["image"]) == 8
        value = loss(model, batch["index"], batch["image"], batch["label"], epoch=0)
        assert type(value) is torch.Tensor
        assert math.isfinite(value.item())
    assert loss.perturbation.visits.tolist() == [1] * COUNT


def test_monai_refuses_what_does_not_fit():
    pytest.importorskip("monai", reason="needs the extra integrations")
    pytest.importorskip("ignite", reason="needs the extra integrations")
    from dpaat.integrations.monai import DPAATTrainer

    model = network()
    loss = AdversarialLoss(model, LABELS, epochs=2)
    given = {
        "device": torch.device("cpu"),
        "train_data_loader": DataLoader(Dictionaries(), batch_size=8),
        "network": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_function": loss,
    }
    with pytest.raises(UserError, match="same number"):
        DPAATTrainer(max_epochs=3, **given)
    with pytest.raises(UserError, match="Indexed"):
        DPAATTrainer(max_epochs=2, **given).run()
