"""The registry: names, presets, and costs that are those of the passes made."""

from dataclasses import replace
from importlib import import_module

import pytest
from torch import nn

from dpaat.attacks import ATTACKS
from dpaat.benchmark.cost import step_passes
from dpaat.config import TrainConfig, complete
from dpaat.integrations.loss import AdversarialLoss
from dpaat.methods import METHODS, Cost, Method, build_method, complete_options, find_method, register_method
from dpaat.methods.base import Standard
from dpaat.methods.dpaat import DPAAT
from dpaat.methods.registry import FIXED, LARGEST
from dpaat.methods.teacher import SelfTeacher
from method_makers import Network, batch, context, cost

STEPS, EPOCHS = 6, 40
TIED = {"trades", "mart", "mma", "ima", "ame", "amat"}
"""They take no clean weight."""


def test_a_name_is_given_once(monkeypatch):
    monkeypatch.setitem(METHODS, "pgd", METHODS["pgd"])
    register_method("pgd", "the same class again", eps=FIXED)(METHODS["pgd"].build)

    class Another(Standard):
        pass

    for name in ("pgd", "dpaat"):
        with pytest.raises(ValueError, match=f"another method called '{name}' is registered already"):
            register_method(name, "another class", eps=FIXED)(Another)


@pytest.mark.parametrize("registry", [METHODS, ATTACKS])
def test_what_is_defined_again_takes_its_old_place(registry, monkeypatch):
    monkeypatch.setitem(registry, "mine", registry["pgd"])  # so that it is taken back
    registry.pop("mine")

    def cell() -> type:
        class Mine(Standard):
            pass

        return registry.register("mine", "as a cell of a notebook", cost=registry["pgd"].cost)(Mine)

    first, second = cell(), cell()
    assert first is not second
    assert second in vars(registry["mine"]).values()
    second.__qualname__ = "Another"
    with pytest.raises(ValueError, match="'mine' is registered already"):
        cell()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_default_radii_are_those_of_the_norm(name):
    linf, l2 = (complete(TrainConfig(method=name, norm=norm)) for norm in ("linf", "l2"))
    assert linf.val_eps == "1/255,2/255,4/255,8/255"
    assert l2.val_eps == "0.25,0.5,1,2"
    info = METHODS[name]
    if info.adversarial:
        assert (linf.eps, l2.eps) in {("2/255", "0.5"), ("4/255", "1"), ("8/255", "2")}
        assert linf.radius == pytest.approx(info.eps)
    for field in ("eps", "val_eps", "options"):  # as a run folder has them
        assert getattr(complete(l2), field) == getattr(l2, field)
    old = replace(l2, eps=linf.eps, val_eps=linf.val_eps, options=linf.options)
    assert complete(old) == old, "a run that was begun with radii in Linf goes on with them"
    if info.adversarial:
        loss = AdversarialLoss(Network(), [0, 1, 2] * 8, epochs=4, method=name, norm="l2")  # and accepts its options
        assert loss.method.context.eps == l2.radius


def test_options_that_are_radii_have_the_size_that_they_have_in_linf():
    found = 0
    for info in METHODS.values():
        linf, l2 = (complete(TrainConfig(method=info.name, norm=norm)) for norm in ("linf", "l2"))
        for name, declared in info.build.declared().items():
            ratio = (l2.radius / linf.radius) ** declared.radius if info.adversarial else 1
            if isinstance(linf.options[name], float):
                assert l2.options[name] == pytest.approx(ratio * linf.options[name])
            found += declared.radius != 0
    assert found >= 4
    given = TrainConfig(method="cat", norm="l2", eps="0.1", options={"increment": 0.005}, val_eps="0.1")
    assert (complete(given).options["increment"], complete(given).val_radii) == (0.005, [0.1])


def test_a_method_from_elsewhere_can_be_named(monkeypatch):
    monkeypatch.setitem(METHODS, "own", METHODS["pgd"])  # so that it is taken back
    METHODS.pop("own")

    @register_method("own", "a method of one's own", eps=FIXED)
    class Own(Method):
        def forward(self, model, index, x, y):
            raise NotImplementedError

    assert isinstance(build_method(find_method("own"), context(), {}), Own)
    assert complete(TrainConfig(method="own")).eps == "4/255"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Cost(), "3 F"),
        (Cost(0, 5), "5 F"),
        (Cost(2, 3), "(2K + 3) F"),
        (Cost(1, 3), "(K + 3) F"),
        (Cost(0.15, 3.15), "(0.15K + 3.15) F"),
    ],
)
def test_a_cost_is_written_as_in_the_tables(found, text):
    assert str(found) == text


def test_costs_by_hand():
    assert Cost(2, 3).passes(10) == 23
    assert Cost().mixed(Cost(2, 7, 2), 0.25) == Cost(0.5, 4, 1.25)


def passes(objective: Method) -> float:
    """Forward passes per sample of one step, those of the teacher included."""
    model = Network().train()
    objective(model, *batch()).loss.backward()
    if objective.teacher is None:
        return cost(model)
    taught = sum(objective.teacher.network.forwards)
    objective.teacher.network.shown.clear()
    return cost(model) + taught / 6


def cases():
    for name, info in METHODS.items():
        for weight in {info.clean_weight, *(() if name in TIED else (0.5,))}:
            for teacher in (0.0, 0.5):
                yield name, weight, teacher, {}
    for radius in ("mean", "permuted"):
        yield "dpaat", 0.9, 1.0, {"radius": radius}
        yield "dpaat-half", 0.5, 0.0, {"radius": radius}
    yield "dpaat-fast", 0.9, 0.5, {"views": "both", "adv_fraction": 0.25, "steps_scale": 1.0}


@pytest.mark.parametrize(("name", "weight", "weight_of_teacher", "changes"), list(cases()))
def test_the_cost_is_that_of_the_passes_made(monkeypatch, name, weight, weight_of_teacher, changes):
    monkeypatch.setattr(import_module("dpaat.attacks.pgd"), "GRANULE", 1)
    info = find_method(name)
    teacher = SelfTeacher(Network(), weight_of_teacher) if weight_of_teacher else None
    changed = {"clean_weight": weight, "steps": STEPS, "epochs": EPOCHS, "teacher": teacher}
    # A DPAAT preset is taken over a whole run, half of it before the attacks; any other method in its last epoch.
    start = 0.5 if info.build is DPAAT else 0.0
    method = build_method(info, context(**changed, adv_start=start), changes)
    clean = Standard(context())
    if info.build is DPAAT:
        method.perturbation.eps.fill_(method.context.eps)  # the costliest
        found = []
        for epoch in range(EPOCHS):
            method.begin_epoch(epoch)
            found.append(passes(method if epoch >= method.context.first_attack else clean))
        mean = sum(found) / EPOCHS
    else:
        method.after_step(method(Network().train(), *batch()))
        if teacher is not None:
            teacher.network.shown.clear()
        method.begin_epoch(EPOCHS - 1)
        mean = passes(method)
    expected = info.step_cost(weight, complete_options(info, changes), start, weight_of_teacher)
    assert mean == pytest.approx(expected.passes(STEPS))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_weight_perturbation_costs_a_pass_for_every_view_learned_from(name):
    info = find_method(name)
    method = build_method(info, context(clean_weight=info.clean_weight, steps=STEPS, epochs=EPOCHS), {})
    method.after_step(method(Network().train(), *batch()))
    views = []
    for epoch in range(20) if info.build is DPAAT else (EPOCHS - 1,):
        method.begin_epoch(epoch)
        model = Network().train()
        method(model, *batch())
        views.append(model.forwards[-1] / 6)
    config = complete(TrainConfig(method=name, steps=STEPS, adv_start=0.0, self_teacher=0.0))
    extra = step_passes(replace(config, awp=0.01)) - step_passes(config)
    assert extra == pytest.approx(3 * sum(views) / len(views))


# --- presets


def test_presets():
    """What each name stands for: whoever changes a number here changes a method that others have run."""
    found = {
        name: (info.eps, info.clean_weight, info.adv_start, info.self_teacher, info.defaults)
        for name, info in METHODS.items()
        if info.build is DPAAT
    }
    own = {name: declared.default for name, declared in DPAAT.declared().items()}
    stepped = own | {"rule": "step", "eps_min": 0.0, "eps_init": 0.125, "views": "both", "min_steps": 0}
    turns = stepped | {"views": "alternate"}
    assert found == {
        "dpaat": (LARGEST, 0.9, 0.5, 1.0, own),
        "dpaat-balanced": (LARGEST, 0.5, 0.5, 0.7, own),
        "dpaat-robust": (LARGEST, 0.15, 0.5, 0.7, own),
        "dpaat-v1": (4 / 255, 0.85, 0.5, 0.0, turns | {"eps_init": 0.25, "min_steps": 5}),
        "dpaat-half": (LARGEST, 0.5, 0.0, 0.0, stepped),
        "dpaat-fast": (LARGEST, 0.5, 0.0, 0.0, turns | {"min_steps": 1, "steps_scale": 0.5}),
        "dpaat-paper": (LARGEST, 0.0, 0.0, 0.0, turns | {"scope": "global", "track": "adversarial"}),
    }
    assert all(info.moves_radius for info in METHODS.values() if info.build is DPAAT)


def test_presets_are_of_their_own_paper_and_others_of_theirs():
    for name, info in METHODS.items():
        assert ("2403.06798" in info.reference) == (info.build is DPAAT), name
        assert info.reference or name == "standard"
        assert isinstance(build_method(info, context(clean_weight=info.clean_weight), {}), nn.Module)
