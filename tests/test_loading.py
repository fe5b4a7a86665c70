from itertools import chain

import numpy as np
import pytest
import torch

from data_makers import array_table
from dpaat.data import PreparedData
from dpaat.data.loading import KeyedBatchSampler, SplitDataset, key
from dpaat.training.setup import DataModule

LABELS = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)


def sampler(size: int = 100, batch_size: int = 16, **options) -> KeyedBatchSampler:
    return KeyedBatchSampler(LABELS[:size], batch_size, **{"seed": 0, "epoch": 0, **options})


@pytest.mark.parametrize(
    ("size", "batch_size"), [(100, 16), (97, 16), (100, 100), (100, 128), (33, 32), (5, 2), (2, 2)]
)
def test_batches_cover_every_sample_once_and_are_nearly_equal(size, batch_size):
    batches = list(sampler(size, batch_size))
    assert sorted(chain.from_iterable(batches)) == list(range(size))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(batch_size, 3)
    assert min(sizes) >= 2, "BatchNorm needs two"
    assert len(sampler(size, batch_size)) == len(batches)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_every_batch(world_size):
    whole = list(sampler(97))
    shares = [list(sampler(97, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(chain.from_iterable(parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_order_is_keyed_by_seed_and_epoch():
    assert list(sampler(epoch=3)) == list(sampler(epoch=3))
    different = [sampler(), sampler(epoch=1), sampler(seed=1), sampler(seed=1, epoch=1)]
    assert len({repr(list(one)) for one in different}) == 4
    torch.manual_seed(1)
    first = list(sampler())
    torch.manual_seed(2)
    assert list(sampler()) == first, "the global generator plays no part"


def test_key_tells_its_parts_apart_and_fits_a_generator():
    keys = {key(0, 1), key(1, 0), key(0, 1, 0), key("0", 1), key(10)}
    assert len(keys) == 5
    assert all(0 <= value < 2**63 for value in keys)
    assert key(3, 4) == 3989849863180585904, "the same in every process and version, or old runs could not be repeated"


def test_balanced_draws_every_class_equally_often():
    drawn = torch.cat(
        [LABELS[torch.tensor(list(chain.from_iterable(sampler(balanced=True, epoch=e))))] for e in range(60)]
    )
    share = torch.bincount(drawn).double() / len(drawn)
    assert torch.allclose(share, torch.full((3,), 1 / 3, dtype=torch.double), atol=0.03)
    assert len(list(chain.from_iterable(sampler(balanced=True)))) == 100, "an epoch stays as long as it was"
    assert list(sampler(balanced=True)) == list(sampler(balanced=True))


def test_balanced_survives_a_class_without_training_images():
    labels = torch.tensor([0, 0, 0, 2, 2, 2])  # class 1 is absent
    drawn = list(chain.from_iterable(KeyedBatchSampler(labels, 3, seed=0, epoch=0, balanced=True)))
    assert len(drawn) == 6


def prepared(count: int = 40) -> PreparedData:
    table = array_table([number % 4 for number in range(count)])
    images = np.stack([np.full((1, 8, 8), number, np.uint8) for number in range(count)])
    split = np.array(["train", "train", "val", "test"])[np.arange(count) // 3 % 4]
    return PreparedData(table=table, images=images, split=split, fingerprint="0" * 16)


def test_dataset_hands_out_whole_batches_numbered_within_the_split():
    data = prepared()
    dataset = SplitDataset(data, "val")
    rows = data.rows("val")
    index, images, labels = dataset.__getitems__([4, 0])
    assert len(dataset) == len(rows)
    assert index.tolist() == [4, 0]
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == rows[[4, 0]].tolist()
    assert labels.tolist() == data.labels[rows[[4, 0]]].tolist()
    assert labels.dtype == torch.int64
    assert [part.tolist() for part in dataset[2][::2]] == [[2], [data.labels[rows[2]]]]


@pytest.mark.parametrize("workers", [0, 1])
def test_validation_loader_goes_through_the_split_in_order(workers):
    data = prepared()
    module = DataModule(data, batch_size=2, seed=0, balanced=False, workers=workers)
    batches = list(module.val_dataloader())
    assert torch.cat([index for index, _, _ in batches]).tolist() == list(range(len(data.rows("val"))))
    assert torch.cat([images[:, 0, 0, 0] for _, images, _ in batches]).tolist() == data.rows("val").tolist()
