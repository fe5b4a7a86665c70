"""Reports from the field, kind 1: what a state dict does not hold is never guessed in silence."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dpaat.cli import main
from dpaat.errors import UserError
from dpaat.models import build_model, describe_weights
from dpaat.normalization import parse_normalization
from dpaat.runs import open_run
from dpaat.training import train
from dpaat.weights import open_weights
from training_makers import fails, tiny_arguments, tiny_config

MODEL = "test_resnet"
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def network(seed: int = 0, classes: int = 3, **options) -> nn.Module:
    """A network as timm makes it, with statistics of batches that are its own."""
    torch.manual_seed(seed)
    made = timm.create_model(MODEL, num_classes=classes, **options)
    with torch.no_grad():
        for _ in range(3):
            made(torch.randn(4, options.get("in_chans", 3), 32, 32))
    return made.eval()


def logits(model: nn.Module, x: Tensor = IMAGES) -> Tensor:
    with torch.inference_mode():
        return model.eval()(x)


def normalized(net: nn.Module, mean: object = None, std: object = None, x: Tensor = IMAGES) -> Tensor:
    config = net.pretrained_cfg
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(v) for v in (mean or config["mean"], std or config["std"]))
    return logits(net, (x - mean.reshape(shape)) / std.reshape(shape))


def built(path: Path, **options) -> nn.Module:
    options = {"num_classes": 3, "image_size": 32, "keep_head": True} | options
    return build_model(MODEL, weights=path, **options)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def evaluated(images: Path, weights: Path, out: Path, *extra: object) -> dict:
    code = main(["evaluate", *map(str, arguments(images, weights, out, *extra))])
    assert code == 0
    return json.loads((out / "evaluation.json").read_text())


def arguments(images: Path, weights: Path, out: Path, *extra: object) -> list[object]:
    given = ["--model", MODEL, "--weights", weights, "--data", f"folder:{images}", "--out", out, "--device", "cpu"]
    return [*given, "--eps", "0", *(() if "--image-size" in extra else ("--image-size", 32)), *extra]


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


# --- the stem


def test_foreign_weights_keep_the_stem_they_were_trained_with(tmp_path):
    # found in our audit: PneumoniaMNIST, 72.4 % accuracy became 62.5 with the strides of the small stem
    net = network()
    model = built(saved(tmp_path / "w.pth", net.state_dict()))
    assert torch.equal(logits(model), normalized(net))
    assert model.facts["stem"] == "original"
    assert build_model(MODEL, num_classes=3, image_size=32).facts["stem"] == "small", "without weights as before"
    assert not torch.allclose(logits(built(tmp_path / "w.pth", stem="small")), normalized(net), atol=1e-3)


def test_a_training_says_and_records_what_it_began_from(tiny_images, tmp_path, capfd):
    saved(tmp_path / "w.pth", network(classes=7).state_dict())
    wanted = {"epochs": 1, "stem": "auto", "weights": tmp_path / "w.pth", "val_eps": "0", "method": "standard"}
    assert main([*tiny_arguments(tiny_images, **wanted), f"--out={tmp_path / 'run'}"]) == 0
    line = "w.pth: 90 of 92 tensors, head new for 3 classes; stem original; mean/std of timm; input 0-1"
    assert line in capfd.readouterr().out
    run = open_run(tmp_path / "run")
    facts = run.info["network"]
    assert facts["stem"] == "original"
    assert facts["weights"]["outputs"] == 7
    assert describe_weights(facts).endswith(line)
    assert main(["evaluate", str(run.path), "--eps=0", "--device=cpu"]) == 0
    assert json.loads((run.path / "evaluation.json").read_text())["network"] == facts
    assert main(["report", str(run.path), f"--out={tmp_path / 'r.html'}"]) == 0
    assert line in (tmp_path / "r.html").read_text()


def test_an_older_run_is_loaded_by_the_rule_of_its_time(tiny_images, tmp_path):
    run = train(tiny_config(tiny_images, stem="small", epochs=1, val_eps="0"), tmp_path / "run")
    expected = logits(open_run(run).load_model())
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        text.replace("stem: small", "stem: auto\nweights: gone.pth").replace("weights: null\n", "")
    )
    info = json.loads((run / "run.json").read_text())
    del info["network"], info["config"]
    (run / "run.json").write_text(json.dumps(info))
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    del checkpoint["dpaat"]
    torch.save(checkpoint, run / "checkpoints" / "best.ckpt")
    assert torch.equal(logits(open_run(run).load_model()), expected)
    assert torch.equal(logits(built(run / "checkpoints" / "best.ckpt")), expected)
    alone = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    with pytest.raises(UserError, match=r"alone\.ckpt: .* without a record of its stem; give --stem"):
        built(Path(alone))
    assert torch.equal(logits(built(Path(alone), stem="small")), expected)


def test_a_run_that_goes_on_keeps_its_stem(tiny_images, tmp_path):
    saved(tmp_path / "w.pth", network().state_dict())
    config = tiny_config(tiny_images, stem="auto", weights=str(tmp_path / "w.pth"), val_eps="0", method="standard")
    train(config, tmp_path / "run", stop_after=1)
    (tmp_path / "w.pth").unlink()
    train(config, tmp_path / "run", resume=True)
    model = open_run(tmp_path / "run").load_model()
    assert model.facts["stem"] == "original"
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["network"]["weights"]["file"].endswith("w.pth")


# --- the values that the network was trained on


@pytest.mark.parametrize(
    ("given", "mean", "std"),
    [
        ({"mean": "0.1,0.2,0.3", "std": "0.5,0.6,0.7"}, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]),
        ({"mean": "0", "std": "1"}, [0.0], [1.0]),
        # FOA#2: 38 % instead of 57 % with another normalization
        ({"mean": "127.5", "std": 51.0, "input_range": "0-255"}, [0.5], [0.2]),
        # Cadene/pretrained-models.pytorch#66: weights of Caffe take values in 0-255
        ({"input_range": "0-255"}, [0.0], [1 / 255]),
        # Cadene/pretrained-models.pytorch#188: values in -1 to 1
        ({"input_range": "-1-1"}, [0.5], [0.5]),
        ({"mean": [0.0], "std": [0.5], "input_range": "-1-1"}, [0.5], [0.25]),
    ],
)
def test_another_normalization_or_range_is_stated(tmp_path, given, mean, std):
    net = network()
    model = built(saved(tmp_path / "w.pth", net.state_dict()), **given)
    torch.testing.assert_close(logits(model), normalized(net, mean, std), rtol=1e-4, atol=1e-4)
    assert torch.allclose(torch.tensor(model.facts["mean"]), torch.tensor(mean))
    assert "of timm" not in describe_weights(model.facts)


def test_values_in_0_255_by_all_three_ways(tiny_images, tmp_path, capfd):
    saved(tmp_path / "w.pth", network().state_dict())
    options = ["--mean=127.5", "--std=51", "--input-range=0-255"]
    document = evaluated(tiny_images, tmp_path / "w.pth", tmp_path / "out", *options)
    assert "stem original; mean/std as given; input 0-255" in capfd.readouterr().out
    assert document["network"]["mean"] == pytest.approx([0.5] * 3)
    wanted = {"weights": tmp_path / "w.pth", "epochs": 1, "val_eps": "0", "method": "standard"}
    assert main([*tiny_arguments(tiny_images, **wanted), f"--out={tmp_path / 'run'}", *options]) == 0
    run = open_run(tmp_path / "run")
    assert run.info["network"]["std"] == pytest.approx([0.2] * 3)
    assert run.load_model().std.flatten().tolist() == pytest.approx([0.2] * 3)
    plain = evaluated(tiny_images, tmp_path / "w.pth", tmp_path / "out")
    assert len(plain["results"]) == 1, "the same file read in another way is another model"
    assert plain["checkpoint"] != document["checkpoint"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": "0.5,0.5", "std": "1"}, "mean: 2 values for 3 channels"),
        ({"mean": "0.5", "std": "1,1"}, "std: 2 values for 3 channels"),
        ({"mean": "0.5", "std": "0"}, "std: 0 must be above 0"),
        ({"mean": "0.5", "std": "-1"}, "std"),
        ({"mean": "nan", "std": "1"}, "mean: nan must be finite"),
        ({"mean": "0.5", "std": "inf"}, "std: inf must be finite"),
        ({"mean": "half", "std": "1"}, "mean: 'half' is not a list of numbers"),
        ({"mean": "0.5"}, "mean and std belong together"),
        ({"std": "0.5"}, "mean and std belong together"),
        ({"mean": "123.675,116.28,103.53", "std": "58,57,57"}, "did you mean --input-range 0-255"),
        ({"mean": "0.5", "std": "58"}, "std: 58 is more than the input range 0-1; did you mean --input-range 0-255"),
        ({"mean": "0.485", "std": "0.229", "input_range": "0-255"}, "look like those of values in 0-1"),
        ({"input_range": "255"}, "input_range: '255' is not a range"),
        ({"input_range": "255-0"}, "input_range: '255-0' is not a range"),
        ({"input_range": "nan-1"}, "input_range"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(tiny_images, tmp_path, capfd, given, message):
    saved(tmp_path / "w.pth", network().state_dict())
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    fails(capfd, "evaluate", *arguments(tiny_images, tmp_path / "w.pth", tmp_path / "out", *options), names=(message,))
    wanted = tiny_arguments(tiny_images, weights=tmp_path / "w.pth")
    fails(capfd, *wanted, f"--out={tmp_path / 'run'}", *options, names=(message,))


def test_normalization_inside_the_file_is_used(tmp_path):
    # the usual wrapper of adversarial evaluations: nn.Sequential(Normalize(mean, std), network)
    net = network()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.4, 0.3])
    state = {"0.mean": mean.reshape(1, 3, 1, 1), "0.std": std.reshape(1, 3, 1, 1), **prefixed(net.state_dict(), "1.")}
    path = saved(tmp_path / "w.pth", state)
    model = built(path)
    torch.testing.assert_close(logits(model), normalized(net, mean.tolist(), std.tolist()))
    assert "mean/std of the file" in describe_weights(model.facts)
    built(path, mean="0.1,0.2,0.3", std="0.5,0.4,0.3")
    with pytest.raises(UserError, match=r"w\.pth: was trained with mean .* as the file says"):
        built(path, mean="0.5", std="0.5")
    saved(path, state | {"0.mean": 255 * state["0.mean"], "0.std": 255 * state["0.std"]})
    with pytest.raises(UserError, match="did you mean --input-range 0-255"):
        built(path)
    torch.testing.assert_close(logits(built(path, input_range="0-255")), logits(model))


# --- one loader for every file


def lacking_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
FORMS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": OPTIMIZER},
    "model": lambda s: {"model": s, "optimizer": OPTIMIZER},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": OPTIMIZER},
    "net": lambda s: {"net": s, "acc": 93.0},
    "deep": lambda s: {"checkpoint": {"ema": {"weights": s}}},
    "module.": lambda s: prefixed(s, "module."),  # pytorch/pytorch#3805
    "_orig_mod.": lambda s: prefixed(s, "_orig_mod."),  # huggingface/pytorch-image-models#2003
    "stack": lambda s: {"state_dict": prefixed(s, "module._orig_mod.model.network.")},
    "lightning and compile": lambda s: {"state_dict": prefixed(s, "model._orig_mod.") | {"loss.weight": torch.ones(9)}},
    "inner module": lambda s: {n.replace("conv", "module.conv", 1): v for n, v in s.items()},  # bearpaw#27
    "no counters": lacking_counters,
    "n_averaged": lambda s: {"n_averaged": torch.tensor(4), **prefixed(s, "module.")},
    # Lyken17/pytorch-OpCounter#82
    "thop": lambda s: s | {"total_ops": torch.zeros(1), "layer1.0.conv1.total_params": torch.zeros(1).double()},
    "namespace": lambda s: {"state_dict": s, "arch": MODEL, "args": argparse.Namespace(lr=0.1)},
    "the same twice": lambda s: {"state_dict": prefixed(s, "model.") | prefixed(s, "attacker.model.")},
    "half": lambda s: {n: v.half() if v.is_floating_point() else v for n, v in s.items()},
    "bfloat16": lambda s: {n: v.bfloat16() if v.is_floating_point() else v for n, v in s.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_by_train_and_evaluate_alike(tmp_path, form):
    net = network()
    path = saved(tmp_path / "w.pth", FORMS[form](net.state_dict()))
    rounded = {"half": 0.01, "bfloat16": 0.1}.get(form, 0.0)
    expected = normalized(net)
    for options in ({"keep_head": True}, {"keep_head": False}):
        model = built(path, **options)
        assert (logits(model) - expected).abs().max() <= rounded * expected.abs().max()
        weights = model.facts["weights"]
        assert weights["loaded"] + weights["filled"] == weights["tensors"] == len(net.state_dict())
        assert weights["dtype"] == {"half": "float16"}.get(form, form if form == "bfloat16" else "float32")
    new_head = built(path, num_classes=5, keep_head=False).facts["weights"]
    assert (new_head["head"], new_head["outputs"]) == ("new", 3)


def test_safetensors_with_metadata_of_others(tmp_path):
    net = network()
    save_file(prefixed(net.state_dict(), "model."), tmp_path / "w.safetensors", {"format": "pt", "dpaat": "no JSON"})
    assert torch.equal(logits(built(tmp_path / "w.safetensors")), normalized(net))


def test_names_of_other_packages_are_translated_by_timm(tmp_path):
    # as facebookresearch/ConvNeXt names them, below "model"
    torch.manual_seed(0)
    net = timm.create_model("test_convnext", num_classes=3).eval()
    names = {"stem.": "downsample_layers.0.", ".conv_dw.": ".dwconv.", ".mlp.fc1": ".pwconv1", ".mlp.fc2": ".pwconv2"}
    names |= {"head.fc.": "head.", "head.norm.": "norm."}
    state = {}
    for name, value in net.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        for stage in range(4):
            name = name.replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}")
            name = name.replace(f"stages.{stage}.blocks", f"stages.{stage}")
        state[name] = value
    path = saved(tmp_path / "w.pth", {"model": state})
    model = build_model("test_convnext", num_classes=3, image_size=64, weights=path, keep_head=True)
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(logits(model, x), normalized(net, x=x))


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_for_another_number_of_channels(tiny_images, tmp_path, channels, capfd):
    net = network(in_chans=channels)
    path = saved(tmp_path / "w.pth", net.state_dict())
    other = 4 - channels
    model = built(path, channels=other, keep_head=False)
    assert f"first layer adapted from {channels} channels" in describe_weights(model.facts)
    grey = torch.rand(4, 1, 32, 32)
    means = {"mean": [0.5] * channels, "std": [0.5] * channels}
    model = built(path, channels=other, keep_head=False, mean="0.5", std="0.5")
    expected = normalized(net, **means, x=grey.repeat(1, channels, 1, 1))
    torch.testing.assert_close(logits(model, grey.repeat(1, other, 1, 1)), expected, rtol=1e-4, atol=1e-4)
    if channels == 1:
        fails(capfd, "evaluate", *arguments(tiny_images, path, tmp_path / "out"), names=("RGB images, but",))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s | {"layer1.0.se.fc1.weight": torch.ones(3, 3)},
        lambda s: s | {"layer1.0.gain": torch.ones(())},
        lambda s: {n: v for n, v in s.items() if n != "layer2.0.bn1.running_var"},
        lambda s: {n: torch.ones(7) if n == "layer1.0.bn1.bias" else v for n, v in s.items()},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_variant_of_the_model_is_refused(tmp_path, spoil, prefix):
    path = saved(tmp_path / "w.pth", prefixed(spoil(network().state_dict()), prefix))
    for keep_head in (True, False):
        with pytest.raises(UserError, match=r"w\.pth: not weights of this model \(.*layer[12]\.0\."):
            built(path, keep_head=keep_head)


def test_a_variant_that_shows_in_nothing_but_the_file_s_own_word(tmp_path):
    # efficientnet_b0 and tf_efficientnet_b0 have the same tensors and other paddings
    path = saved(tmp_path / "w.pth", {"state_dict": network().state_dict(), "arch": "tf_efficientnet_b0"})
    with pytest.raises(UserError, match=r"holds weights of 'tf_efficientnet_b0', as the file says"):
        built(path)


# --- which of several sets


def two_sets(form: str) -> dict:
    one, other = network(1).state_dict(), network(2).state_dict()
    return {
        "prefixes": {"state_dict": prefixed(one, "model.") | prefixed(other, "ema_model.")},
        "dicts": {"model": one, "model_ema": other},
        "timm": {"state_dict": one, "state_dict_ema": other},
        "inside": one | prefixed(other, "ema_model."),
    }[form]


KEYS = {
    "prefixes": ("model", "ema_model", "state_dict.model, state_dict.ema_model"),
    "dicts": ("model", "model_ema", "model, model_ema"),
    "timm": ("state_dict", "state_dict_ema", "state_dict, state_dict_ema"),
    "inside": (".", "ema_model", "., ema_model"),
}


@pytest.mark.parametrize("form", KEYS)
def test_of_several_sets_one_is_named(tiny_images, tmp_path, capfd, form):
    # found in our audit: 40 % or 100 % for the same file; zhuyu-cs/MeanFlow#12
    path = saved(tmp_path / "w.pth", two_sets(form))
    one, other, names = KEYS[form]
    given = arguments(tiny_images, path, tmp_path / "out")
    assert names in fails(capfd, "evaluate", *given, names=("--weights-key",))
    wanted = tiny_arguments(tiny_images, weights=path)
    assert names in fails(capfd, *wanted, f"--out={tmp_path / 'run'}", names=("--weights-key",))
    for seed, key in ((1, one), (2, other)):
        model = built(path, weights_key=key)
        assert torch.equal(logits(model), normalized(network(seed)))
        assert model.facts["weights"]["key"] == names.split(", ")[seed - 1]
    fails(capfd, "evaluate", *given, "--weights-key", "student", names=("student", names))


def test_nothing_hangs_on_the_hash_seed(tmp_path):
    saved(tmp_path / "two.pth", two_sets("prefixes"))
    state = network(1).state_dict()
    saved(
        tmp_path / "twin.pth",
        {"state_dict": prefixed(state, "a.net.") | prefixed(state, "b.net."), "x": {"y": OPTIMIZER}},
    )
    code = (
        "import hashlib, sys\nfrom pathlib import Path\nfrom dpaat.errors import UserError\n"
        "from dpaat.models import build_model\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(build_model('test_resnet', num_classes=3, image_size=32, weights=Path(name)).facts)\n"
        "    except UserError as error: print(error)\n"
    )
    files = [str(tmp_path / name) for name in ("two.pth", "twin.pth")]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, *files],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (0, 1)
    }
    assert len(outputs) == 1
    assert "choose one with --weights-key" in outputs.pop()


def test_a_key_without_a_choice_is_refused(tiny_images, tmp_path, capfd):
    fails(capfd, *tiny_arguments(tiny_images), f"--out={tmp_path / 'a'}", "--weights-key=ema", names=("weights_key",))
    path = saved(tmp_path / "w.pth", network().state_dict())
    with pytest.raises(UserError, match="names 0 of its sets of weights: "):
        built(path, weights_key="ema")


# --- checkpoints of this package


@pytest.fixture(scope="module")
def averaged_run(tiny_images, tmp_path_factory):
    """A run with averaged weights, the small stem by the rule of its size, squashed images and a seed of its own."""
    config = tiny_config(tiny_images, stem="auto", ema_decay=0.5, val_eps="0", seed=5, fit="squash", method="standard")
    return train(config, tmp_path_factory.mktemp("averaged") / "run")


def test_a_run_s_own_checkpoint_scores_as_the_run(averaged_run, tiny_images, tmp_path):
    assert main(["evaluate", str(averaged_run), "--eps=0", "--device=cpu"]) == 0
    expected = json.loads((averaged_run / "evaluation.json").read_text())
    alone = Path(shutil.copy(averaged_run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt"))
    for number, path in enumerate((averaged_run, averaged_run / "checkpoints" / "best.ckpt", alone)):
        document = evaluated(tiny_images, path, tmp_path / f"{number}")
        assert document["network"]["stem"] == "small"
        assert document["network"]["weights"]["key"] == "state_dict.ema.module.network"
        assert document["data_fingerprint"] == expected["data_fingerprint"]
        for one, other in zip(document["results"], expected["results"], strict=True):
            assert one["metrics"] == other["metrics"]
    trained = built(alone, weights_key="model").network.state_dict()
    state = torch.load(alone, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[f"model.network.{name}"]) for name, value in trained.items())
    assert not torch.equal(trained["fc.weight"], state["ema.module.network.fc.weight"])


def test_what_the_checkpoint_says_wins_or_must_agree(averaged_run, tiny_images, tmp_path, capfd):
    path = averaged_run / "checkpoints" / "best.ckpt"
    given = arguments(tiny_images, path, tmp_path / "out")
    fails(capfd, "evaluate", *given, "--mean=0.1", "--std=0.2", names=("best.ckpt", "as the file says"))
    fails(capfd, "evaluate", *given, "--input-range=0-255", names=("best.ckpt", "as the file says"))
    fails(capfd, "evaluate", *given, "--classes=c2,c1,c0", names=("best.ckpt", "in this order"))
    with pytest.raises(UserError, match="holds weights of 'test_resnet'"):
        build_model("resnet18", num_classes=3, image_size=32, weights=path)
    mean = open_weights(path).sets["state_dict"]["model.mean"].flatten().tolist()
    std = open_weights(path).sets["state_dict"]["model.std"].flatten().tolist()
    assert built(path, mean=mean, std=std).facts["normalization"] == "of the file"


def test_a_head_for_other_classes_is_learned_anew(averaged_run):
    same = built(averaged_run, keep_head=False, classes=("c0", "c1", "c2"))
    other = built(averaged_run, keep_head=False, classes=("benign", "naevus", "melanoma"))
    assert (same.facts["weights"]["head"], other.facts["weights"]["head"]) == ("kept", "new")


# --- class order and number


def test_classes_of_foreign_weights_are_named(tiny_images, tmp_path, capfd):
    net = network(classes=5)
    path = saved(tmp_path / "w.pth", net.state_dict())
    given = arguments(tiny_images, path, tmp_path / "out")
    fails(capfd, "evaluate", *given, names=("w.pth: its head has 5 outputs, but there are 3 classes", "--classes"))
    document = evaluated(tiny_images, path, tmp_path / "out", "--classes", "c2,x,c0, c1,y")
    assert document["classes"] == ["c2", "x", "c0", "c1", "y"]
    assert "classes c2, x, c0, c1, y as given" in capfd.readouterr().out
    order = [2, 3, 0]
    with torch.no_grad():
        net.fc.weight[:] = net.fc.weight[[*order, 1, 4]].clone()
        net.fc.bias[:] = net.fc.bias[[*order, 1, 4]].clone()
    saved(tmp_path / "sorted.pth", net.state_dict())
    other = evaluated(tiny_images, tmp_path / "sorted.pth", tmp_path / "sorted", "--classes", "c0,c1,c2,x,y")
    one, two = (each["results"][0]["metrics"] for each in (document, other))
    assert one["accuracy"] == two["accuracy"]
    assert one["per_class_recall"] == two["per_class_recall"]


# found in our audit: what a file says of the order of its outputs was not looked at
@pytest.mark.parametrize(
    "told",
    [
        {"class_to_idx": {"c0": 2, "c1": 0, "c2": 1}},
        {"idx_to_class": {0: "c1", 1: "c2", 2: "c0"}},
        {"id2label": {"0": "c1", "1": "c2", "2": "c0"}},
        {"classes": ["c1", "c2", "c0"]},
    ],
)
def test_a_file_that_tells_its_classes(tiny_images, tmp_path, capfd, told):
    path = saved(tmp_path / "w.pth", {"state_dict": network().state_dict(), **told})
    document = evaluated(tiny_images, path, tmp_path / "out")
    assert document["classes"] == ["c1", "c2", "c0"]
    assert "classes c1, c2, c0 as the file says" in capfd.readouterr().out
    assert built(path, keep_head=False, classes=("c0", "c1", "c2")).facts["weights"]["head"] == "new"
    given = arguments(tiny_images, path, tmp_path / "out", "--classes=c0,c1,c2")
    fails(capfd, "evaluate", *given, names=("in this order",))


def test_weights_without_a_head_are_called_that(tiny_images, tmp_path, capfd):
    state = {name: value for name, value in network().state_dict().items() if not name.startswith("fc.")}
    path = saved(tmp_path / "w.pth", state)
    fails(capfd, "evaluate", *arguments(tiny_images, path, tmp_path / "out"), names=("holds no head", "train it"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("c0,c1,z", "classes unknown to"),
        ("c0,c1,c1", "different names"),
        ("c0,,c1", "different names"),
        ("c0,c1,c2,c3", "its head has 3 outputs, but there are 4 classes"),
    ],
)
def test_classes_that_do_not_fit(tiny_images, tmp_path, capfd, classes, message):
    path = saved(tmp_path / "w.pth", network().state_dict())
    given = arguments(tiny_images, path, tmp_path / "out", "--classes", classes)
    fails(capfd, "evaluate", *given, names=(message,))


@pytest.mark.parametrize("option", ["stem=small", "mean=0.5", "classes=a,b", "weights-key=x", "image-size=32", "out=x"])
def test_options_of_weights_beside_a_run_are_refused(tiny_run, capfd, option):
    fails(capfd, "evaluate", tiny_run, f"--{option}", names=(f"--{option.partition('=')[0]} belongs to weights",))


def test_ranges_are_read():
    for text, bounds in {
        "0-255": (0, 255),
        "-1-1": (-1, 1),
        "-1--0.5": (-1, -0.5),
        "0:1": (0, 1),
        "0,255": (0, 255),
    }.items():
        assert parse_normalization(None, None, text).range == bounds
