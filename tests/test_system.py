"""The graph at work: what an edge does to its ends, who moves in a phase, and whom training cannot reach."""

import copy
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.assemble import Assembly, assemble
from segdistill.class_map import Translation, groups
from segdistill.data import as_float
from segdistill.losses import Features, Labels, Loss, Mask, Scalar
from segdistill.models import Model
from segdistill.models.unet import UNet
from segdistill.optim import optimiser
from segdistill.recipe import LABELS, OptimSpec, parse
from segdistill.system import Edge, Ending, Following, Frozen, Phase, System, Tap
from segdistill.types import IGNORE, Batch, ClassTable

TINY: dict[str, Any] = {"kind": "unet", "width": 2, "depth": 2}
K = 3


@final
class Witness(Loss):
    """Remembers what it was called with; its value is the mean student."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, student: Features, target: Tensor, labels: Labels, mask: Mask) -> Scalar:
        self.called.append((student, target, labels, mask))
        return student.mean()


def batch(images: int = 2, height: int = 16, width: int = 24, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (images, height, width), generator=generator)
    pad = torch.zeros(images, height, width, dtype=torch.bool)
    pad[0, :, -4:] = True
    labels[pad] = IGNORE
    labels[:, :3] = IGNORE
    image = torch.randint(0, 256, (images, 3, height, width), generator=generator, dtype=torch.uint8)
    return Batch(image, labels, pad, tuple(map(str, range(images))))


def edge(
    loss: Loss | None = None,
    student: str = "a.logits",
    target: str = "b.logits",
    weight: float = 1.0,
    ramp: int = 0,
    distill_on: str = "real",
    adapter: nn.Module | None = None,
    distill_stride: int = 1,
    translation: Translation | None = None,
) -> Edge:
    return Edge(
        loss or Witness(),
        tap(student),
        tap(target),
        weight=weight,
        ramp=ramp,
        distill_on=distill_on,
        distill_stride=distill_stride,
        adapter=adapter,
        translation=translation,
    )


def tap(path: str) -> Tap:
    node, *stages = path.split(".")
    return Tap(node, tuple(stages))


def say(given: Edge, student: Tensor, target: Tensor) -> dict[str, dict[str, Tensor]]:
    """What the nodes at the ends of an edge said."""
    (stage,) = given.student.stages
    said: dict[str, dict[str, Tensor]] = {given.student.node: {stage: student}}
    for name in given.target.stages:
        said.setdefault(given.target.node, {})[name] = target
    return said


def seen_by(given: Edge, student: Tensor, target: Tensor, of: Batch | None = None) -> tuple[Tensor, ...]:
    witness = given.loss
    assert isinstance(witness, Witness)
    given(say(given, student, target), of or batch())
    return witness.called[-1]


# What an edge does to its ends


def test_ends_of_one_shape_are_left_alone() -> None:
    student, target = torch.randn(2, K, 16, 24), torch.randn(2, K, 16, 24)
    seen = seen_by(edge(), student, target)
    assert torch.equal(seen[0], student) and torch.equal(seen[1], target)
    assert torch.equal(seen[2], batch().labels)


def test_the_adapter_is_a_pointwise_map_of_the_student() -> None:
    adapter = nn.Conv2d(4, 7, 1, bias=False)
    student, target = torch.randn(2, 4, 8, 12), torch.randn(2, 7, 8, 12)
    seen = seen_by(edge(adapter=adapter, student="a.enc1", target="b.enc1"), student, target)
    expected = torch.einsum("oc,bchw->bohw", adapter.weight[:, :, 0, 0], student)
    torch.testing.assert_close(seen[0], expected)
    assert torch.equal(seen[1], target)


@pytest.mark.parametrize(
    ("student", "target", "resized"),
    [("a.logits", "b.logits", "target"), ("a.dec1", "b.bottleneck", "student"), ("a.dec2", LABELS, "student")],
)
def test_which_end_is_resized(student: str, target: str, resized: str) -> None:
    """Logits keep their size and bring the teacher's to it; features, and whoever meets labels, go to the target's."""
    x = torch.randn(2, K, 16, 24) if target != LABELS else torch.randn(2, K, 4, 6)
    y = torch.randn(2, K, 8, 12) if target != LABELS else batch().labels
    seen = seen_by(edge(student=student, target=target), x, y)
    moved, still = (1, 0) if resized == "target" else (0, 1)
    assert torch.equal(seen[still], (x, y)[still])
    size = tuple((x, y)[still].shape[-2:])
    torch.testing.assert_close(seen[moved], F.interpolate((x, y)[moved], size, mode="bilinear", align_corners=False))


def test_enlarging_is_not_corner_aligned() -> None:
    """[0, 1] at four points: 0, ¼, ¾, 1."""
    given = edge(student="a.dec2", target="b.dec1")
    seen = seen_by(given, torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), torch.zeros(1, 1, 1, 4), batch(1))
    assert seen[0].flatten().tolist() == [0, 0.25, 0.75, 1]


def test_masks() -> None:
    given = batch()
    assert given.pad.any() and ((given.labels == IGNORE) & ~given.pad).any()
    expected = {
        "all": torch.ones_like(given.pad),
        "real": ~given.pad,
        "labelled": given.labels != IGNORE,
    }
    for name, mask in expected.items():
        assert torch.equal(edge(distill_on=name).mask(given), mask), name
        assert torch.equal(seen_by(edge(distill_on=name), *[torch.randn(2, K, 16, 24)] * 2, given)[3], mask), name


def test_the_target_is_detached() -> None:
    student, target = (torch.randn(2, K, 16, 24, requires_grad=True) for _ in range(2))
    given = edge()
    seen = seen_by(given, student, target)
    assert not seen[1].requires_grad and seen[0].requires_grad
    given(say(given, student, target), batch()).backward()
    assert target.grad is None and student.grad is not None


def test_half_precision_is_raised_before_the_adapter() -> None:
    adapter = nn.Conv2d(K, K, 1, bias=False)
    x = torch.randn(2, K, 16, 24).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        seen = seen_by(edge(adapter=adapter, student="a.enc1", target="b.enc1"), x, x)
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], F.conv2d(x.float(), adapter.weight), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("ramp", "expected"), [(0, [2, 2, 2, 2, 2]), (4, [0.5, 1, 1.5, 2, 2]), (1, [2, 2, 2, 2, 2])])
def test_the_weight_rises_over_the_ramp(ramp: int, expected: list[float]) -> None:
    given = edge(weight=2.0, ramp=ramp)
    assert [given.weight_at(step) for step in range(5)] == expected


def test_a_step_is_the_weighted_sum_of_its_edges() -> None:
    torch.manual_seed(0)
    edges = {"one": edge(weight=2.0), "two": edge(weight=3.0, ramp=2, student="a.dec1", target="b.dec1")}
    system = System({name: UNet(2, 2, num_classes=K) for name in "ab"}, edges, [])
    for step in (0, 5):
        answer = system(batch(), {}, step)
        assert list(answer.losses) == ["one", "two"]
        share = 1.5 if step == 0 else 3.0
        torch.testing.assert_close(answer.loss, 2 * answer.losses["one"] + share * answer.losses["two"])


def test_a_stride_is_the_mean_of_the_logits_that_count() -> None:
    """At 4 × 4 pixels: avg_pool2d where all count; where the padding begins, the mean of those before it."""
    student, target = torch.randn(2, K, 16, 24), torch.randn(2, K, 16, 24)
    given = batch()
    seen = seen_by(edge(distill_stride=4), student, target, given)
    for pooled, full in zip(seen[:2], (student, target), strict=True):
        torch.testing.assert_close(pooled[1], F.avg_pool2d(full, 4)[1])
        torch.testing.assert_close(pooled[0, ..., :5], F.avg_pool2d(full, 4)[0, ..., :5])
    given.pad[0, :, -6:-4] = True
    before = seen_by(edge(distill_stride=4), student, target, given)[0]
    torch.testing.assert_close(before[0, :, :, 4], F.avg_pool2d(student[..., 16:18], (4, 2))[0, :, :, 0])
    changed = student.masked_fill(given.pad[:, None], 1e6)
    assert torch.equal(seen_by(edge(distill_stride=4), changed, target, given)[0], before)
    assert torch.equal(seen[2], given.labels)  # labels are never pooled


def test_a_loss_over_several_stages_gets_them_as_they_are() -> None:
    class Pair(Loss):
        several = True

        def forward(self, student: list[Tensor], target: list[Tensor], labels: Labels, mask: Mask) -> Scalar:
            assert [x.shape[1:] for x in student] == [(6, 4, 6), (3, 8, 12)]
            assert [x.shape[1:] for x in target] == [(8, 4, 6), (4, 8, 12)]
            assert not any(x.requires_grad for x in target)
            return torch.stack([x.mean() for x in student]).sum()

    given = Edge(Pair(), Tap("a", ("dec2", "dec1")), Tap("b", ("dec2", "dec1")))
    a, b = torch.randn(2, 6, 4, 6, requires_grad=True), torch.randn(2, 3, 8, 12)
    c, d = torch.randn(2, 8, 4, 6, requires_grad=True), torch.randn(2, 4, 8, 12)
    value = given({"a": {"dec1": b, "dec2": a}, "b": {"dec2": c, "dec1": d}}, batch())
    torch.testing.assert_close(value, a.mean() + b.mean())
    assert str(given.student) == "a.[dec2, dec1]"


# Who acts when


def test_phases_follow_each_other_in_a_ring() -> None:
    names = ["p", "q", "r"]
    phases = [Phase(2, frozenset({"r", "p"})), Phase(1, frozenset()), Phase(3, frozenset({"q"}))]
    system = System({"a": nn.Identity()}, {name: edge() for name in names}, phases)
    acting = [system.acting(step) for step in range(12)]
    assert acting == [["p", "r"], ["p", "r"], [], ["q"], ["q"], ["q"]] * 2
    assert [system.acting(step) for step in (7, 0, 7)] == [acting[7], acting[0], acting[7]]  # of the step alone
    assert System({"a": nn.Identity()}, {"p": edge(), "q": edge()}, []).acting(99) == ["p", "q"]


def test_a_ring_ends_where_the_last_phase_begins() -> None:
    """CE, CE, KD, CE, CE, KD, CE, then both: whatever the ring would have said."""
    phases = [Phase(2, frozenset({"ce"})), Phase(1, frozenset({"kd"}))]
    edges = {"ce": edge(), "kd": edge(), "late": edge()}
    system = System({"a": nn.Identity()}, edges, phases, Ending(7, frozenset(edges)))
    told = ["+".join(system.acting(step)) for step in range(10)]
    assert told == ["ce", "ce", "kd", "ce", "ce", "kd", "ce", *["ce+kd+late"] * 3]
    assert system.first_steps == {"ce": 0, "kd": 2, "late": 7}
    short = System({"a": nn.Identity()}, edges, phases, Ending(1, frozenset(edges)))
    assert short.first_steps == {"ce": 0, "kd": 1, "late": 1}


def mutual(seed: int = 0) -> System:
    """Two that learn from each other in turns: a from b for two steps, then b from a; a third that always learns."""
    torch.manual_seed(seed)
    models: dict[str, nn.Module] = {name: UNet(2, 2, num_classes=K) for name in "abc"}
    edges = {
        "a_from_b": edge(student="a.logits", target="b.logits"),
        "b_from_a": edge(student="b.logits", target="a.logits"),
        "c": edge(student="c.logits", target=LABELS),
    }
    return System(models, edges, [Phase(2, frozenset({"a_from_b"})), Phase(1, frozenset({"b_from_a", "c"}))])


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_who_rests_is_not_moved_by_a_bit(kind: str) -> None:
    """Weights, BatchNorm statistics and counters; also with momentum and weight decay left from its own phase."""
    system = mutual()
    steps = optimiser(system, OptimSpec.model_validate({"kind": kind, "lr": 0.1, "weight_decay": 0.1}))
    moves: list[set[str]] = []
    for step in range(6):
        before = {name: state(model) for name, model in system.models.items()}
        system(batch(seed=step), {}, step).loss.backward()
        steps.step()
        steps.zero_grad()
        moves.append({name for name, model in system.models.items() if not same(before[name], state(model))})
    assert moves == [{"a"}, {"a"}, {"b", "c"}] * 2


def test_only_learners_get_gradients_and_only_the_wanted_are_run() -> None:
    system = mutual()
    calls: list[str] = []
    for name, model in system.models.items():
        model.register_forward_hook(lambda *_, name=name: calls.append(name))
    system(batch(), {}, 0).loss.backward()
    assert calls == ["a", "b"]  # c rests
    assert system.listened_to(0) == {"b"} and system.listened_to(2) == {"a"}
    for name, model in system.models.items():
        assert any(p.grad is not None for p in model.parameters()) == (name == "a"), name


def test_a_model_that_only_teaches_is_evaluated() -> None:
    """By its running statistics, so that its answer does not depend on the batch."""
    system = mutual()
    system(batch(), {}, 0)
    witness = system.edge("a_from_b").loss
    assert isinstance(witness, Witness)
    model = system.models["b"]
    with torch.no_grad():
        expected = model.eval()(as_float(batch().image))["logits"]
    torch.testing.assert_close(witness.called[-1][1], expected)


def test_a_learner_that_also_teaches_runs_once() -> None:
    torch.manual_seed(0)
    edges = {"b": edge(student="a.enc2", target="a.dec2"), "labels": edge(target=LABELS)}
    system = System({"a": UNet(2, 2, num_classes=K)}, edges, [])
    calls: list[int] = []
    system.models["a"].register_forward_hook(lambda *_: calls.append(1))
    system(batch(), {}, 0).loss.backward()
    assert len(calls) == 1


def test_evaluating_the_system_moves_no_statistics() -> None:
    system = mutual().eval()
    before = state(system)
    system(batch(), {}, 2)
    assert same(before, state(system))


# Who is beyond reach


def frozen(following: dict[str, Following] | None = None, normalisation: Any = "batch") -> Frozen:
    torch.manual_seed(3)
    model = UNet(2, 2, normalisation, num_classes=K).train()
    model(as_float(batch(4).image))  # statistics that are not those of a new model
    return Frozen({"t": model}, following or {})


def test_frozen_is_no_module_and_teaches_evaluated() -> None:
    teachers = frozen()
    assert not isinstance(teachers, nn.Module)
    model = teachers.models["t"]
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    before = state(model)
    said = teachers(batch(), ["t"])["t"]
    assert set(said) == set(UNet(2, 2, num_classes=K).stages)
    assert not any(value.requires_grad for value in said.values())
    assert same(before, state(model))


def test_a_frozen_answer_does_not_depend_on_the_batch() -> None:
    teachers = frozen()
    three = batch(3)
    one = three._replace(image=three.image[:1])
    together, alone = teachers(three, ["t"])["t"]["logits"][:1], teachers(one, ["t"])["t"]["logits"]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remembered", [False, True])
def test_a_temperature_divides_the_logits_and_nothing_else(remembered: bool) -> None:
    """Whoever answers: one memory serves every temperature."""
    plain = frozen()
    said = plain(batch(), ["t"])["t"]
    memory = {"t": lambda _: {"logits": said["logits"].bfloat16(), "enc1": said["enc1"]}} if remembered else None
    warm = Frozen(plain.models, {}, memory, {"t": 2.5})(batch(), ["t"])["t"]
    logits = said["logits"].bfloat16().float() if remembered else said["logits"]
    assert warm["logits"].dtype == torch.float32 and torch.equal(warm["logits"], logits / 2.5)
    assert all(torch.equal(warm[stage], said[stage]) for stage in warm if stage != "logits")
    features = {"enc1": said["enc1"]}
    assert Frozen(plain.models, {}, {"t": lambda _: features}, {"t": 2.5})(batch(), ["t"])["t"] == features


def test_only_the_wanted_teachers_speak() -> None:
    assert frozen()(batch(), []) == {}
    assert frozen()(batch(), ["nobody"]) == {}
    assert list(frozen()(batch(), {"t", "nobody"})) == ["t"]


def test_only_stages_that_somebody_learns_from_are_kept() -> None:
    edges = {"a": edge(target="t.logits"), "b": edge(target="t.dec1"), "c": edge(target="labels")}
    system = System({"a": UNet(2, 2, num_classes=K)}, edges, [Phase(1, frozenset("ac")), Phase(1, frozenset("bc"))])
    said = frozen()(batch(), ["t"])
    for step, stage in enumerate(["logits", "dec1"]):
        kept = system.heard(said, step)
        assert list(kept) == ["t"] and list(kept["t"]) == [stage] and kept["t"][stage] is said["t"][stage]


def test_training_the_system_does_not_reach_a_teacher() -> None:
    torch.manual_seed(0)
    teachers = frozen()
    system = System({"a": UNet(2, 2, num_classes=K)}, {"e": edge(target="t.logits")}, [])
    names = {id(p) for p in system.parameters()}
    assert not names & {id(p) for p in teachers.models["t"].parameters()}
    before = state(teachers.models["t"])
    steps = optimiser(system, OptimSpec(lr=0.1))
    for step in range(3):
        system.train()
        system(batch(seed=step), teachers(batch(seed=step), system.listened_to(step)), step).loss.backward()
        steps.step()
    assert same(before, state(teachers.models["t"]))
    assert not teachers.models["t"].training
    assert all(p.grad is None for p in teachers.models["t"].parameters())


# Moving averages


@pytest.mark.parametrize(
    ("step", "decay", "expected"),
    [(10_000, 0.9, 0.9), (0, 0.9, 0.1), (5, 0.9, 6 / 15), (10_000, 0.0, 0.0), (10_000, 1.0, 10_001 / 10_010)],
)
def test_follow(step: int, decay: float, expected: float) -> None:
    """θ ← d·θ₀ + (1 − d)·θ₁ with d = min(decay, (1 + step) / (10 + step)); statistics too; counters are copied."""
    teachers = frozen({"t": Following("a", decay)})
    torch.manual_seed(9)
    leader = UNet(2, 2, num_classes=K).train()
    leader(as_float(batch().image))
    mine, theirs = state(teachers.models["t"]), state(leader)
    teachers.follow({"a": leader}, step)
    for name, value in teachers.models["t"].state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected * mine[name] + (1 - expected) * theirs[name])
        else:
            assert torch.equal(value, theirs[name])
    assert same(theirs, state(leader))


def test_followers_of_nobody_stay() -> None:
    teachers = frozen()
    before = state(teachers.models["t"])
    teachers.follow({"a": UNet(2, 2, num_classes=K)}, 5)
    assert same(before, state(teachers.models["t"]))


# First weights


def assembled(models: dict[str, Any], losses: dict[str, Any], seed: int = 0) -> Assembly:
    data = {"kind": "streets", "count": 1, "val_count": 1, "scene_size": [48, 64], "batch": 1}
    return assemble(parse({"data": data, "models": models, "losses": losses, "steps": 1, "seed": seed}))


BASE = ({"student": TINY}, {"cross_entropy": {"student": "student"}})


def first_weights(models: dict[str, Any], losses: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    return state(assembled(models, losses, seed).system.models["student"])


def test_first_weights_do_not_change_when_something_is_added() -> None:
    """So that methods are compared from the same start."""
    plain = first_weights(*BASE)
    models, losses = copy.deepcopy(BASE)
    models = {"another": TINY, **models}
    losses["another"] = {"kind": "cross_entropy", "student": "another"}
    losses["deep"] = {"kind": "cross_entropy", "student": "student.dec2"}  # with an adapter
    losses["soft_targets"] = {"student": "student.enc1", "target": "another.bottleneck"}
    assert same(plain, first_weights(models, losses))
    torch.manual_seed(77)  # whatever was drawn before
    assert same(plain, first_weights(*BASE))
    assert not same(plain, first_weights(*BASE, seed=1))


def test_nodes_of_one_kind_start_apart() -> None:
    """Two equal networks would learn nothing from each other."""
    losses = {name: {"kind": "cross_entropy", "student": name} for name in "ab"}
    models = assembled({"a": TINY, "b": TINY}, losses).system.models
    assert isinstance(models["a"], Model)
    assert not same(state(models["a"]), state(models["b"]))


def test_adapters_do_not_change_when_an_edge_is_added() -> None:
    deep = {"kind": "cross_entropy", "student": "student.dec2"}
    one, two = (
        assembled({"student": TINY}, losses).system.edge("deep").adapter
        for losses in ({"deep": deep}, {"first": {**deep, "student": "student.enc1"}, "deep": deep})
    )
    assert same(state(one), state(two))


def test_adapters_learn_but_stay_out_of_the_student() -> None:
    deep = {"kind": "cross_entropy", "student": "student.dec2"}
    system = assembled({"student": TINY}, {"deep": deep}).system
    assert [name for name in system.state_dict() if "adapter" in name] == ["edges.deep.adapter.weight"]
    assert not any("adapter" in name for name in system.models["student"].state_dict())
    assert any(p is system.edge("deep").adapter.weight for p in system.parameters())


def test_an_average_moves_a_shared_tensor_once() -> None:
    """A network that holds one layer under two names."""

    def tied() -> nn.Module:
        model = nn.Module()
        model.one = nn.Linear(1, 1, bias=False)
        model.other = model.one
        return model

    average, followed = tied(), tied()
    nn.init.zeros_(average.one.weight)
    nn.init.ones_(followed.one.weight)
    Frozen({"average": average}, {"average": Following("student", 0.5)}).follow({"student": followed}, 1000)
    assert average.one.weight.item() == 0.5


def test_a_teachers_half_precision_is_raised() -> None:
    table = ClassTable(("a", "b", "c"), ((0, 0, 0),) * 3)
    found = groups({"a": ("a",), "b": ("b",), "c": ("b",)}, table, table, "x")
    x = torch.randn(2, 3, 16, 24)
    seen = seen_by(edge(translation=Translation(found)), x, x.bfloat16())
    torch.testing.assert_close(seen[1][:, 1], x.bfloat16().float()[:, 1:].logsumexp(1), rtol=1e-6, atol=1e-6)
