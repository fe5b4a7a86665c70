"""Attribution maps, the layer they look at, and what is asked of them apart from masks."""

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import Saliency
from scipy.stats import spearmanr
from torch import Tensor, nn

from dpaat.errors import UserError
from dpaat.interpret.layers import find_layer, list_layers
from dpaat.interpret.maps import MAPS, REFERENCES, edge_map, find_maps, logit_gradient
from dpaat.interpret.measure import RANDOM_ORDER, Measured
from dpaat.interpret.metrics import alignment_chance, deletion_insertion, gradient_alignment
from dpaat.interpret.scoring import image_scores
from dpaat.interpret.similarity import (
    randomization_check,
    randomize,
    rank_correlation,
    specific_correlation,
    structural_similarity,
)
from dpaat.models import build_model

LAYERS = {
    "resnet18": "layer2",
    "resnet50": "layer2",  # not layer3.0.act1, of 8 x 8 too, beside which a shortcut runs
    "densenet121": "features.transition2.conv",
    "efficientnet_b0": "blocks.3.0.bn1",
    "convnext_atto": "stages.2.downsample.0",
}


class Corner(nn.Module):
    """Sees nothing but one quarter: logits are the brightness of the upper left 8 x 8 of 16 x 16, and its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, :8, :8].mean(dim=(2, 3))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model("test_resnet", num_classes=3, image_size=32, stem="small").eval()


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_is_the_deepest_of_8_x_8_that_carries_everything(name):
    model = build_model(name, num_classes=3, image_size=64).train()
    x = torch.rand(1, 3, 64, 64)
    layer = find_layer(model, x)
    assert layer.name == LAYERS[name]
    assert (layer.height, layer.width) == (8, 8)
    assert str(layer) == f"{layer.name} (8 x 8)"
    assert model.training, "the model is left in its mode"


def test_a_layer_can_be_named(model, batch):
    x, y = batch
    named = find_layer(model, x[:1], "layer3.0")
    assert (named.path, named.height) == ("network.layer3.0", list_layers(model, x[:1])["layer3"].height)
    maps = MAPS["grad-cam"].function(model, x, y, named)
    assert maps.shape == (6, 32, 32)
    with pytest.raises(UserError, match=r"nearest: layer3"):
        find_layer(model, x[:1], "layer33")
    with pytest.raises(UserError, match=r"does not give one map"):
        find_layer(model, x[:1], "fc")
    with pytest.raises(UserError, match=r"--layer"):
        find_layer(model, x[:1, :, :4, :4])


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_size_of_the_image_and_leave_the_model_as_found(name, model, batch):
    x, y = batch
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    maps = MAPS[name].function(model, x, y, find_layer(model, x[:1]))
    assert maps.shape == (6, 32, 32)
    assert bool((maps >= 0).all())
    assert bool(maps.flatten(1).any(dim=1).any())
    assert not maps.requires_grad
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    one = MAPS[name].function(model, x[2:3], y[2:3], find_layer(model, x[:1]))
    torch.testing.assert_close(one, maps[2:3], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_maps_show_the_only_place_that_counts(name):
    model = Corner()
    x = torch.rand(3, 1, 16, 16)
    x[:, :, :8, :8] += 0.5
    y = torch.zeros(3, dtype=torch.int64)
    layer = find_layer(model, x[:1])
    assert layer.name == "conv"
    maps = MAPS[name].function(model, x, y, layer)
    if name == "grad-cam":  # its weights are means over the whole layer
        assert bool((maps[:, :8, :8].mean(dim=(1, 2)) > maps[:, 8:, 8:].mean(dim=(1, 2))).all())
    else:
        assert float(maps[:, 8:].abs().max()) == float(maps[:, :, 8:].abs().max()) == 0
        assert bool(maps[:, :8, :8].flatten(1).any(dim=1).all())


def test_the_input_gradient_is_that_of_captum(model, batch):
    x, y = batch
    expected = Saliency(model).attribute(x.clone().requires_grad_(), target=y, abs=True).sum(dim=1)
    torch.testing.assert_close(MAPS["input-gradient"].function(model, x, y, None), expected)


def test_integrated_gradients_add_up_on_a_linear_model():
    model = Corner()
    x, y = torch.rand(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64)
    corner = x[:, 0, :8, :8] - x.mean(dim=(2, 3))[:, :, None][:, 0, :, None]
    maps = MAPS["integrated-gradients"].function(model, x, y, None)
    torch.testing.assert_close(maps[:, :8, :8], (corner / 64).abs())


def test_unknown_maps_are_told():
    with pytest.raises(UserError, match="nearest: grad-cam"):
        find_maps(["gradcam"])
    assert [kind.name for kind in find_maps(["grad-cam", "grad-cam"])] == ["grad-cam"]


def test_rank_correlation_is_spearmans():
    one, two = torch.rand(5, 7, 9), torch.rand(5, 7, 9).round(decimals=1)
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(rank_correlation(one, two), expected, atol=1e-6)


@pytest.mark.parametrize("similarity", [rank_correlation, structural_similarity])
@pytest.mark.parametrize("size", [(16, 16), (8, 6), (4, 5)])
def test_similarity_of_equal_opposite_and_uniform_maps(similarity, size):
    maps = torch.rand(3, *size)
    uniform = torch.ones_like(maps)
    np.testing.assert_allclose(similarity(maps, maps * 5), 1, atol=1e-5)
    np.testing.assert_allclose(similarity(uniform, uniform * 2), 1, atol=1e-5)
    assert (similarity(maps, 1 - maps) < 0).all()
    assert (np.abs(similarity(maps, uniform)) < 0.3).all()


def test_specific_correlation_ignores_what_all_images_share():
    shared = 100 * torch.rand(1, 12, 12)
    one, two = torch.rand(40, 12, 12), torch.rand(40, 12, 12)
    assert rank_correlation(shared + one, shared + two).mean() > 0.99
    assert abs(specific_correlation(shared + one, shared + two).mean()) < 0.1
    np.testing.assert_allclose(specific_correlation(shared + one, shared + one), 1)
    np.testing.assert_allclose(specific_correlation(shared.expand(5, -1, -1), shared.expand(5, -1, -1)), 1)
    np.testing.assert_allclose(specific_correlation(shared.expand(5, -1, -1), one[:5]), 0)


def test_an_empty_map_is_neither_stable_nor_unstable():
    maps = torch.rand(4, 12, 12)
    maps[1] = 0
    attacked = maps.clone()
    attacked[2] = 0
    zeros = np.zeros(4, dtype=np.int64)
    found = Measured(
        predicted={0.0: zeros, 0.1: zeros},
        maps={("grad-cam", 0.0): maps, ("grad-cam", 0.1): attacked},
        randomized={"grad-cam": maps},
        faithfulness={"grad-cam": np.zeros((2, 4)), RANDOM_ORDER: np.zeros((2, 4))},
    )
    rows = image_scores(found, None).query("score == 'rank_correlation'")
    assert rows["position"].tolist() == [0, 2, 3]
    assert rows["value"].tolist() == pytest.approx([1, 0, 1])


def _chance(maps: torch.Tensor, kinds: tuple[str, ...] = ("grad-cam",)) -> pd.DataFrame:
    """Chance levels of stability of the same maps, under several names."""
    nothing = np.zeros((2, len(maps)))
    found = Measured(
        predicted={0.0: np.zeros(len(maps), dtype=np.int64)},
        maps={(kind, eps): maps for kind in kinds for eps in (0.0, 0.1)},
        randomized=dict.fromkeys(kinds, maps),
        faithfulness=dict.fromkeys((*kinds, RANDOM_ORDER), nothing),
    )
    return image_scores(found, None).query("score == 'rank_correlation' and eps > 0")


def test_the_chance_of_stability_is_not_that_of_the_row_before():
    rng = torch.Generator().manual_seed(0)
    classes = torch.rand(4, 12, 12, generator=rng).repeat_interleave(25, 0)
    maps = classes + 0.1 * torch.rand(100, 12, 12, generator=rng)
    mixed = torch.randperm(100, generator=rng)
    by_class, shuffled = (_chance(each)["chance"] for each in (maps, maps[mixed]))
    assert by_class.mean() < 0.5  # of 100 images 24 are of the same class
    assert by_class.mean() == pytest.approx(shuffled.mean(), abs=0.15)
    assert by_class.max() < 1 - 1e-6, "no map is its own partner"
    rows = _chance(maps, ("grad-cam", "integrated-gradients"))
    first, second = (each["chance"].tolist() for _, each in rows.groupby("map"))
    assert first == second == by_class.tolist()
    maps[::3] = 0  # maps that are empty have no partner and are none
    assert _chance(maps)["chance"].between(-1, 1 - 1e-6).all()


def test_deletion_and_insertion_tell_a_right_map_from_a_wrong_one():
    model = Corner()
    x = 0.2 * torch.rand(4, 1, 16, 16)
    x[:, :, :8, :8] += 0.8
    y = torch.zeros(4, dtype=torch.int64)
    right = torch.zeros(4, 16, 16)
    right[:, :8, :8] = 1
    areas = {}
    for name, maps in (("right", right), ("wrong", 1 - right), ("chance", torch.ones_like(right))):
        areas[name] = deletion_insertion(model, x, y, maps, generator=torch.Generator().manual_seed(0))
    deletion = {name: area[0].mean() for name, area in areas.items()}
    insertion = {name: area[1].mean() for name, area in areas.items()}
    assert deletion["right"] < deletion["chance"] - 0.05
    assert deletion["chance"] < deletion["wrong"] - 0.05
    assert insertion["right"] > insertion["chance"] + 0.05
    assert insertion["chance"] > insertion["wrong"] + 0.05


def test_deletion_runs_from_the_image_to_its_mean_colour():
    model, x, y = Corner(), torch.rand(3, 1, 16, 16), torch.tensor([0, 1, 0])
    ends = [model(image).softmax(1).gather(1, y[:, None])[:, 0] for image in (x, x.mean((2, 3), True).expand_as(x))]
    deletion, insertion = deletion_insertion(model, x, y, torch.rand(3, 16, 16), steps=1)
    np.testing.assert_allclose(deletion, sum(ends).detach() / 2, rtol=1e-5)
    np.testing.assert_allclose(insertion, deletion, rtol=1e-5)


def test_alignment_of_planted_directions():
    x = torch.rand(4, 3, 8, 8)
    np.testing.assert_allclose(gradient_alignment(-3 * x + 7, x), 1)
    np.testing.assert_allclose(gradient_alignment(torch.ones_like(x), x), 0)
    np.testing.assert_allclose(gradient_alignment(x, torch.full_like(x, 0.1)), 0)
    many = torch.rand(3000, 1, 5, 5)
    found = gradient_alignment(torch.randn(3000, 1, 5, 5), many)
    assert found.mean() == pytest.approx(alignment_chance(1, 5, 5), abs=0.01)


def test_randomizing_shuffles_every_layer_of_a_copy(model, batch):
    x, _ = batch
    random = randomize(model, x, seed=1)
    for (name, before), after in zip(model.named_parameters(), random.parameters(), strict=True):
        torch.testing.assert_close(before.flatten().sort().values, after.flatten().sort().values)
        if before.unique().numel() > 1:
            assert not torch.equal(before, after), name
    assert not random.training
    logits = random(x).detach()
    assert bool(torch.isfinite(logits).all())
    assert float(logits.std(dim=0).max()) > 0, "it still tells images apart"
    assert torch.equal(randomize(model, x, seed=1)(x), logits)
    assert not torch.equal(randomize(model, x, seed=2)(x), logits)


@pytest.mark.parametrize("name", ["grad-cam", "input-gradient"])
def test_randomization_check_passes_for_maps_of_the_model(name, model, batch):
    x, y = batch
    verdict = randomization_check(MAPS[name].function, model, x, y, layer=find_layer(model, x[:1]))
    assert verdict.verdict == "pass", verdict.evidence


@pytest.mark.parametrize("name", REFERENCES)
def test_randomization_check_fails_for_maps_that_ignore_the_model(name, model, batch):
    x, y = batch

    def planted(model: nn.Module, x: Tensor, y: Tensor, layer: object) -> Tensor:
        return REFERENCES[name](x)

    verdict = randomization_check(planted, model, x, y)
    assert verdict.verdict == "fail"
    assert "survive" in verdict.evidence
    assert randomization_check(planted, model, x[:1], y[:1]).verdict == "skipped"


def test_randomization_check_fails_for_edges_with_a_little_of_the_model(model, batch):
    x, y = batch

    def mostly_edges(model: nn.Module, x: Tensor, y: Tensor, layer: object) -> Tensor:
        gradient = logit_gradient(model, x, y).abs().sum(1)
        return edge_map(x) + 0.1 * gradient / gradient.amax((1, 2), keepdim=True)

    assert randomization_check(mostly_edges, model, x, y).verdict == "fail"
