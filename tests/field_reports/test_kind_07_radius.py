"""Reports from the field, kind 7: a radius beyond the image range is a slip; attacks look at what they get."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpaat.attacks import ATTACKS, on_standing, pgd, pgd_graded, pgd_with_clean_logits, unchecked
from dpaat.config import TrainConfig, complete
from dpaat.errors import UserError
from dpaat.evaluation import EvaluateConfig
from dpaat.measurement import ExplainConfig
from training_makers import fails, tiny_arguments, tiny_config

ALL = {name: (info.function, {"source": True} if info.needs_source else {}) for name, info in ATTACKS.items()} | {
    "pgd_with_clean_logits": (pgd_with_clean_logits, {}),
    "pgd_graded": (pgd_graded, {"steps": torch.tensor([1, 2, 0, 3])}),
    "on_standing": (on_standing, {"attacks": [lambda x, y, eps, index: x]}),
}
LABELLED = [name for name in ALL if name != "gaussian"]
LINF = [name for name in ALL if name not in ("ddn", "on_standing")]
L2 = [name for name in ALL if name != "on_standing"]
X = torch.linspace(0, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)
Y = torch.tensor([0, 1, 2, 0])


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes))


def call(name: str, model: nn.Module | None = None, x: object = X, y: object = Y, **options):
    function, own = ALL[name]
    model = network() if model is None else model
    own = {key: model if key == "source" else value for key, value in own.items()}
    if name == "ddn":
        options.setdefault("norm", "l2")
    return function(model, x, y, **({"eps": 0.1} | own | options))


# foolbox#245: accuracy 0 under FGSM, "not normal for attack": the radius was given in another unit than the images


@pytest.mark.parametrize("name", LINF)
@pytest.mark.parametrize("eps", [8, 8.0, torch.full((4,), 8.0), torch.tensor([0.1, 0.1, 0.1, 8.0])])
def test_eps_8_in_linf(name, eps):
    with pytest.raises(ValueError, match="did you mean 8/255"):
        call(name, eps=eps)


@pytest.mark.parametrize("name", L2)
def test_eps_beyond_the_diameter_of_the_image_in_l2(name):
    diameter = math.sqrt(3 * 8 * 8)
    call(name, eps=torch.full((4,), diameter), norm="l2")
    with pytest.raises(ValueError, match=r"13\.86"):
        call(name, eps=torch.full((4,), 1.01 * diameter), norm="l2")


# foolbox#247: "it even works with negative max_epsilon"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("eps", [-0.1, math.nan, -math.inf])
def test_eps_that_is_no_radius(name, eps):
    for given in (eps, torch.tensor([0.1, 0.1, eps, 0.1])):
        with pytest.raises(ValueError, match="eps"):
            call(name, eps=given)


@pytest.mark.parametrize("name", ALL)
def test_infinite_eps_is_for_attacks_that_look_for_the_nearest_image(name):
    if name in ("ddn", "fab-t"):
        call(name, eps=math.inf, steps=2)
        return
    with pytest.raises(ValueError, match="eps"):
        call(name, eps=torch.full((4,), math.inf))


@pytest.mark.parametrize("eps", [torch.ones(3), torch.ones(4, 1, 1, 1), [0.1] * 4, "8/255", None])
@pytest.mark.parametrize("name", ALL)
def test_eps_of_a_wrong_shape_or_type(name, eps):
    with pytest.raises(ValueError, match=r"number|shape"):
        call(name, eps=eps)


def test_a_step_in_grey_levels():
    with pytest.raises(ValueError, match=r"step_size: 2 .* did you mean 2/255"):
        pgd(network(), X, Y, eps=8 / 255, step_size=2)


OPTIONS = [("8/255", "--eps=8"), ("16/255", "--eps=16"), ("8/255", "--val-eps=1/255,8"), ("eps", "--eps=300/255")]


@pytest.mark.parametrize(("named", "option"), OPTIONS)
def test_train(named, option, tiny_images, tmp_path, capfd):
    fails(capfd, *tiny_arguments(tiny_images, epochs=1), f"--out={tmp_path / 'out'}", option, names=(named,))


def test_train_from_yaml(tiny_images, tmp_path, capfd):
    (tmp_path / "c.yaml").write_text("eps: 8\n")
    command, *arguments = tiny_arguments(tiny_images, epochs=1)
    fails(capfd, command, f"--config={tmp_path / 'c.yaml'}", *arguments, f"--out={tmp_path / 'o'}", names=("8/255",))


def test_train_in_l2(tiny_images):
    tiny = tiny_config(tiny_images, norm="l2", image_size=32)
    values = vars(tiny) | {"val_eps": "0.5"}
    complete(TrainConfig(**values | {"eps": 8}))
    with pytest.raises(UserError, match="did you mean 128/255"):
        complete(TrainConfig(**values | {"eps": 128}))


def test_plans():
    for plan in (EvaluateConfig, ExplainConfig):
        with pytest.raises(UserError, match="did you mean 8/255"):
            plan(eps=[8], norm="linf")
        assert plan(eps=[8], norm="l2").radii == [8.0]


@pytest.mark.parametrize("command", ["evaluate", "explain"])
def test_evaluate_and_explain(command, tiny_run, capfd):
    fails(capfd, command, str(tiny_run), "--device=cpu", "--eps=8", names=("did you mean 8/255",))
    fails(capfd, command, str(tiny_run), "--device=cpu", "--eps=500", "--norm=l2", names=("500",))


def test_benchmark(tmp_path, capfd):
    grid = "models: [resnet18]\ndata: [synthetic:60]\nrecipes: {a: {method: pgd}}\n"
    for line, place in (("evaluate: {eps: 8}", "evaluate"), ("train: {eps: 8}", "recipe a")):
        (tmp_path / "g.yaml").write_text(grid + line + "\n")
        out = f"--out={tmp_path / 'out'}"
        fails(capfd, "benchmark", str(tmp_path / "g.yaml"), out, names=("did you mean 8/255", place))


# foolbox#602: normalized CIFAR-10 went into PGD, "the perturbation does not work since some examples already exceed"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X * 255, "divide by 255"),
        ((X * 255).to(torch.uint8), "divide whole grey levels by 255"),
        ((X - 0.5) / 0.25, "normalization"),
        (X + 1e-3, "0, 1"),
        (torch.where(X > 0.99, torch.nan, X), "NaN"),
        (X[:, 0], "channel"),
        (X[0], "shape"),
        (X.permute(0, 2, 3, 1), "permute"),
        (X.numpy(), "tensor"),
    ],
    ids=["grey levels", "uint8", "normalized", "a little", "NaN", "no channel", "no batch", "channels last", "numpy"],
)
def test_images_that_are_none(name, x, message):
    with pytest.raises(ValueError, match=message):
        call(name, x=x)


# torchattacks#70, foolbox#643: multi-label targets; cross-entropy takes them for probabilities, without a word


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize(
    "y",
    [
        F.one_hot(Y, 3).float(),
        torch.tensor([[1.0, 1, 0]] * 4),
        Y.float(),
        F.one_hot(Y, 3),
        Y[:, None],
        Y[:3],
        Y.int(),
        Y - 1,
        Y - 100,  # -100 is what torch's cross-entropy ignores
        Y + 1,
        [0, 1, 2, 0],
    ],
    ids=["one-hot", "multi-hot", "float", "int one-hot", "column", "short", "int32", "-1", "-100", "K", "list"],
)
def test_labels_that_are_none(name, y):
    with pytest.raises(ValueError, match="labels"):
        call(name, y=y)


def test_a_loss_of_ones_own_takes_its_own_labels():
    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(1)

    x_adv = pgd(network(), X, torch.tensor([[1.0, 1, 0]] * 4), eps=0.1, loss=loss)
    assert float((x_adv - X).abs().max()) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="0, 1"):
        pgd(network(), X * 255, torch.tensor([[1.0, 1, 0]] * 4), eps=0.1, loss=loss)


class Answers(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.network, self.wrap = network(), wrap

    def forward(self, x: Tensor):
        return self.wrap(self.network(x))


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: (z, z),
        lambda z: {"logits": z},
        lambda z: z[:, :1],
        lambda z: z[:, 0],
        lambda z: z[:2],
        lambda z: z[..., None],
        lambda z: z.argmax(1),
    ],
    ids=["tuple", "dict", "one logit", "no classes", "half", "an axis more", "classes"],
)
def test_models_that_return_no_logits(name, wrap):
    with pytest.raises(ValueError, match="the model must return logits"):
        call(name, Answers(wrap), y=torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("steps", [torch.full((4,), 2.0), torch.tensor([0.01, 0.01, torch.nan, 0.01])])
def test_step_sizes_per_image(steps):  # found in our audit
    with pytest.raises(ValueError, match="step_size: "):
        pgd(network(), X, Y, eps=0.1, step_size=steps)


@pytest.mark.parametrize("name", ["pgd", "fgsm", "apgd-ce", "ddn"])
def test_models_without_a_gradient(name):  # found in our audit
    with pytest.raises(ValueError, match="no gradient"):
        call(name, Answers(lambda z: z.detach()))
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        call(name)


@pytest.mark.parametrize("name", ["cat.increment", "iaat.gamma", "mma.least"])
def test_options_in_pixel_units(name, tiny_images, tmp_path, capfd):  # found in our audit
    method, option = name.split(".")
    arguments = tiny_arguments(tiny_images, method=method, **{f"options.{option}": 8})
    fails(capfd, *arguments, f"--out={tmp_path / 'run'}", names=(option, "did you mean 8/255"))


def test_a_function_is_no_model():
    with pytest.raises(ValueError, match="Module"):
        pgd(lambda x: x.flatten(1), X, Y, eps=0.1)


@pytest.mark.parametrize("name", [name for name in LABELLED if name in ATTACKS and ATTACKS[name].steps])
@pytest.mark.parametrize("steps", [0, -1, 2.5, None, "10"])
def test_steps(name, steps):
    with pytest.raises(ValueError, match="steps"):
        call(name, steps=steps)


@pytest.mark.parametrize("name", [name for name in ALL if name != "on_standing"])
@pytest.mark.parametrize("norm", ["L2", "linff", "inf", 2, None])
def test_norm(name, norm):
    with pytest.raises(ValueError, match="norm"):
        call(name, norm=norm)


def test_one_line_and_exit_code_2():
    with pytest.raises(UserError):
        call("pgd", eps=8)


@pytest.mark.parametrize("name", [name for name in ALL if name != "on_standing"])
def test_values_are_looked_at_once_a_call(name, monkeypatch):
    looked, look = Counter(), torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda values: looked.update([values.shape]) or look(values))
    model = network()
    call(name, model)
    assert looked[X.shape] == 1
    assert not model._forward_hooks
    with unchecked():
        call(name, model)
    assert looked[X.shape] == 1


def test_training_looks_at_no_value(tiny_images, tmp_path, monkeypatch):
    from dpaat.training import train

    monkeypatch.setattr(torch, "aminmax", lambda values: pytest.fail("the training loop waits for the device"))
    train(tiny_config(tiny_images, epochs=1, steps=1), tmp_path / "out")
