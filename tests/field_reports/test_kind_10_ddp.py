"""Reports from the field, kind 10: the state inside a model, in a loop of one's own, over processes and devices."""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from dpaat import AdaptivePerturbation, pgd_with_clean_logits
from dpaat.perturbation import stepped
from dpaat.sample_state import EpochRadii, SampleRadii
from dpaat.thresholds import STATISTICS
from processes_launch import in_processes

SAMPLES, CLASSES, EPOCHS, BATCH = 24, 3, 3, 7
"""A batch of 7 leaves 4 images to one process and 3 to the other, and the last one 2 and 1."""


class WithState(nn.Module):
    """A network that owns the state, as in a user's own loop; no BatchNorm, whose statistics are each process's own."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        labels = torch.arange(SAMPLES) % CLASSES
        self.state = AdaptivePerturbation(SAMPLES, 8 / 255, labels=labels, num_classes=CLASSES, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def own_loop(rank: int, processes: int, end: Path, **options: object) -> None:
    """Train as a user would; every process learns from its rows of every batch."""
    model = WithState(**options)
    wrapped = model
    if processes > 1:
        dist.init_process_group("gloo", init_method="env://", rank=rank, world_size=processes)
        wrapped = DistributedDataParallel(model)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(SAMPLES, 3, 4, 4, generator=generator), torch.arange(SAMPLES) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(EPOCHS):
        for batch in torch.randperm(SAMPLES, generator=generator).split(BATCH):
            index = batch[rank::processes]
            x, y = images[index], labels[index]
            x_adv, clean = pgd_with_clean_logits(model, x, y, eps=model.state.eps[index], steps=2)
            adv_loss = cross_entropy(wrapped(x_adv), y, reduction="none")
            # DDP takes the mean over processes: weighted, it is the mean over the images of the batch.
            (adv_loss.sum() * processes / len(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
            model.state.update(index, adv_loss, cross_entropy(clean, y, reduction="none"))
    torch.save(model.state_dict(), end)
    if processes > 1:
        dist.destroy_process_group()


def trained(folder: Path, processes: int, **options: object) -> list[dict]:
    ends = [folder / f"end-{processes}-{rank}.pt" for rank in range(processes)]

    def work(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
        own_loop(rank, processes, ends[rank], **options)

    assert in_processes(processes, work, folder / f"outcomes-{processes}", seconds=60) == [""] * processes
    return [torch.load(end) for end in ends]


# int16 labels: "Invalid scalar type" as soon as DDP is constructed on gloo (pytorch#103585 with bool, pytorch#111131).
@pytest.mark.parametrize("options", [{}, {"statistic": "median", "damping": 0.8, "renew_every": 5}])
def test_a_state_inside_a_module_under_ddp(tmp_path, options):
    (single,) = trained(tmp_path, 1, **options)
    one, other = trained(tmp_path, 2, **options)
    assert one.keys() == single.keys()
    for name, value in one.items():
        if isinstance(value, Tensor):
            assert torch.equal(value.nan_to_num(7), other[name].nan_to_num(7)), name
        else:
            assert value == other[name], name
    assert single["state.visits"].tolist() == [EPOCHS] * SAMPLES
    assert torch.equal(one["state.visits"], single["state.visits"])
    assert single["state.eps"].unique().numel() >= 8
    for name in ("eps", "loss", "criterion"):
        assert torch.allclose(one[f"state.{name}"], single[f"state.{name}"], atol=1e-6), name


def test_a_process_without_an_image_takes_part(tmp_path):
    """The rest of an epoch may leave some processes nothing."""

    def work(rank: int) -> None:
        dist.init_process_group("gloo", init_method="env://", rank=rank, world_size=2)
        state = WithState(damping=0.0).state
        index = torch.tensor([5, 2, 9]) if rank == 0 else torch.tensor([], dtype=torch.long)
        losses = torch.tensor([0.5, 1.0, 3.0])[: len(index)]
        state.update(index, 2 * losses, losses)
        torch.save(state.state_dict(), tmp_path / f"{rank}.pt")
        dist.destroy_process_group()

    def start(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
        work(rank)

    assert in_processes(2, start, tmp_path / "outcomes", seconds=60) == ["", ""]
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one["visits"].nonzero()[:, 0].tolist() == [2, 5, 9]
    assert torch.equal(one["eps"], other["eps"])


def states() -> dict[str, nn.Module]:
    labels = torch.arange(SAMPLES) % CLASSES
    options = {"labels": labels, "num_classes": CLASSES}
    found: dict[str, nn.Module] = {
        name: AdaptivePerturbation(SAMPLES, 0.1, statistic=name, **options) for name in STATISTICS
    }
    found["stepped"] = AdaptivePerturbation(SAMPLES, 0.1, rule=stepped(0.01), **options)
    found["without labels"] = AdaptivePerturbation(SAMPLES, 0.1)
    return found | {"radii": SampleRadii(SAMPLES), "radii of an epoch": EpochRadii(SAMPLES)}


# gloo and nccl share few types of integers (pytorch#103585): those of every buffer must be among them.
SENT = {torch.float32, torch.float16, torch.uint8, torch.int32, torch.int64}


@pytest.mark.parametrize("name", states())
def test_buffers_are_of_types_that_every_backend_sends(name):
    assert {buffer.dtype for buffer in states()[name].buffers()} <= SENT


class NoDouble(TorchDispatchMode):
    """Fails as a device without float64 would."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        for value in found if isinstance(found, tuple | list) else [found]:
            assert not (isinstance(value, Tensor) and value.dtype == torch.float64), f"{function} makes float64"
        return found


# Apple's devices have no float64 (pytorch#79019, pytorch#122602).
@pytest.mark.parametrize("name", states())
def test_no_float64_is_made(name):
    state, index = states()[name], torch.tensor([3, 1, 3, 20])
    losses = torch.tensor([0.5, 2.0, 0.7, 1.0])
    with NoDouble():
        for _ in range(3):
            if isinstance(state, AdaptivePerturbation):
                state.update(index, losses + 0.5, losses)
            else:
                state.record(index, losses, losses)
        twin = copy.deepcopy(state)
        twin.load_state_dict(state.state_dict())
    assert state.visits.sum() == 9
    with NoDouble(), pytest.raises(AssertionError, match="makes float64"):
        losses.double()
