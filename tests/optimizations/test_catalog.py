"""The contract that every technique in the catalog keeps; it runs over whatever the catalog holds."""

import inspect
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from labkit import optimizations
from labkit.core.effort import EFFORTS
from labkit.core.errors import Unavailable, UsageError
from labkit.core.machine import DEVICES
from labkit.core.recipe import Recipe, Step
from labkit.core.workload import WorkloadSpec
from labkit.engine.quality import Provable
from labkit.optimizations import CATALOG, Bound, Need, Optimization, Slot, bind, techniques
from labkit.optimizations.base import check_knob
from labkit.optimizations.build import build_engine, build_system, prepare_reference
from labkit.optimizations.kv_cache import KvCache
from labkit.optimizations.ranks import Ranks
from labkit.ui.combinations import clash

SPEC = WorkloadSpec("contract", "offline", 72, new_tokens=6, num_requests=3, shared_prefix_tokens=64)

every = pytest.mark.parametrize("kind", CATALOG, ids=lambda kind: kind.name)
of_the_engine = pytest.mark.parametrize("kind", techniques(), ids=lambda kind: kind.name)

PARTNERS: dict[tuple[str, str, Any], tuple[tuple[str, Any], ...]] = {
    ("prune", "pattern", "2:4"): (("sparsity", 0.5),),
}
"""Knobs that a value needs beside it."""

WORTHWHILE = {"low_rank": "low_rank(energy=0.3)"}
"""Recipes that change something on random weights, where the default knobs do not."""


def allowed_values(kind: type[Optimization], knob: str) -> list[Any]:
    rule = next(field for field in fields(kind) if field.name == knob)
    if rule.metadata["choices"]:
        return [*rule.metadata["choices"], *(["any 'other' text"] if rule.metadata["is_open"] else [])]
    if rule.metadata["is_open"]:
        return [rule.default, "other"]
    return [type(rule.default)(rule.metadata[end]) for end in ("low", "high")]


def partners(optimization: Optimization) -> tuple[str, ...]:
    """Names of what must stand beside it, behind what must stand beside that."""
    kinds = {kind.name: kind for kind in CATALOG}
    names = (name for partner in optimization.partners for name in (*partners(kinds[partner]()), partner))
    return tuple(dict.fromkeys(names))


def with_partners(kind: type[Optimization], *, is_on: bool = True) -> str:
    """A recipe of what a technique requires and, if `is_on`, the technique itself."""
    return " + ".join((*partners(kind()), *([kind.name] if is_on else [])))


@every
def test_its_module_is_a_lesson(kind: type[Optimization]) -> None:
    lesson = inspect.getmodule(kind).__doc__ or ""  # type: ignore[union-attr]
    for part in ("Idea:", "Price:", "No gain:", "Reference:"):
        assert part in lesson
    assert kind.__doc__
    assert kind.title
    assert isinstance(kind.slot, Slot)


@every
def test_its_file_is_named_after_it(kind: type[Optimization]) -> None:
    assert inspect.getfile(kind).endswith(f"{kind.name}.py")


@every
def test_every_knob_has_help_a_rule_and_a_default_that_obeys_it(kind: type[Optimization]) -> None:
    for field in fields(kind):
        assert field.metadata["help"]
        rule = field.metadata
        assert rule["is_open"] or rule["choices"] or rule["low"] <= field.default <= rule["high"]
    assert kind().step == Step(kind.name)


@every
def test_every_allowed_knob_value_survives_text_and_json(kind: type[Optimization]) -> None:
    for field in fields(kind):
        for value in allowed_values(kind, field.name):
            knobs = ((field.name, value), *PARTNERS.get((kind.name, field.name, value), ()))
            optimization = kind(**dict(knobs))
            if any(need.missing() for need in optimization.required):
                continue
            recipe = Recipe((*map(Step, partners(optimization)), Step(kind.name, knobs)))
            system = kind.systems[0]
            canonical = bind(recipe, system=system).recipe
            assert Recipe.parse(recipe.text) == Recipe.of(recipe.to_dict()) == recipe
            assert bind(canonical.text, system=system) == bind(recipe, system=system)


@every
def test_values_outside_the_rule_are_refused_by_name(kind: type[Optimization]) -> None:
    for field in fields(kind):
        no_text = "nonsense" if not field.metadata["is_open"] else "" if field.default else 0.5
        for value in (no_text, True, None, -1, 10**18):
            if any(value is choice for choice in field.metadata["choices"]):
                continue
            with pytest.raises(UsageError, match=field.name):
                kind(**{field.name: value})


@of_the_engine
def test_the_tiny_model_runs_under_it(kind: type[Optimization], tiny_model: str, tmp_path: Path) -> None:
    check_runs_under(kind, tiny_model, tmp_path)


def check_runs_under(kind: type[Optimization], model: str, folder: Path) -> None:
    """A model answers under a technique, and as ever where it is exact."""
    skip_without_needs(kind)
    outputs = []
    for recipe in ("", with_partners(kind)):
        bound = bind(recipe)
        with bound.process(), closing(built(bound, model, folder)) as system:
            trace = system.serve(system.prepare(SPEC.draw(0)))
        assert [len(request.output_ids) for request in trace.requests] == [6, 6, 6]
        outputs.append([request.output_ids for request in trace.requests])
    if kind.exact:
        assert outputs[0] == outputs[1]


def skip_without_needs(*kinds: type[Optimization]) -> None:
    for kind in kinds:
        if lacking := [need.missing() for need in kind.needs if need.missing()]:
            pytest.skip(f"{kind.name}: {lacking[0]}")


def built(bound: Bound, model: str, folder: Path, devices: Sequence[str] = DEVICES) -> Provable:
    """The system on the first of these devices that all techniques run on."""
    device = next(name for name in devices if all(name in one.devices for one in bound.optimizations))
    return build_system(bound, model=model, device=device, cache_folder=folder)


def proven_on_cpu(kind: type[Optimization]) -> bool:
    return kind.exact and "cpu" in kind.devices and not any(need.missing() for need in kind.needs)


def names_of_pair(one: type[Optimization], other: type[Optimization]) -> list[str]:
    return list(dict.fromkeys([*partners(one()), *partners(other()), one.name, other.name]))


ALLOWED_PAIRS = pytest.mark.parametrize(
    ("one", "other"), [pair for pair in combinations(techniques(), 2) if not clash(*pair)], ids=lambda kind: kind.name
)


@ALLOWED_PAIRS
def test_every_allowed_pair_runs(
    one: type[Optimization], other: type[Optimization], tiny_model: str, tmp_path: Path
) -> None:
    outputs, is_exact = outputs_of_pair(one, other, tiny_model, tmp_path)
    if is_exact:  # in 16 bits the order of a sum decides between near equals
        assert outputs[0] == outputs[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@ALLOWED_PAIRS
def test_every_allowed_pair_runs_on_a_gpu(
    one: type[Optimization], other: type[Optimization], tiny_model: str, tmp_path: Path
) -> None:
    if torch.cuda.device_count() < 2 and any(issubclass(kind, Ranks) for kind in (one, other)):
        pytest.skip("each rank needs a GPU")
    outputs, is_exact = outputs_of_pair(one, other, tiny_model, tmp_path, devices=DEVICES[::-1])
    if is_exact:
        assert outputs[0] == outputs[1]


@pytest.mark.slow
@ALLOWED_PAIRS
def test_every_allowed_pair_runs_on_a_trained_model(
    one: type[Optimization], other: type[Optimization], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()  # where kernels are chosen once for all pairs
    outputs, is_exact = outputs_of_pair(one, other, "pylm", folder)
    if is_exact:
        assert outputs[0] == outputs[1]


def outputs_of_pair(
    one: type[Optimization],
    other: type[Optimization],
    model: str,
    folder: Path,
    devices: Sequence[str] = DEVICES,
) -> tuple[list[list[tuple[int, ...]]], bool]:
    """What a model says under two techniques and under what is lossy of them, and whether nothing is."""
    skip_without_needs(one, other)
    outputs = []
    steps = {"compile": "compile(mode='reduce-overhead')"} if devices != DEVICES else {}  # on a GPU with graphs
    bound = bind(" + ".join(steps.get(name, name) for name in names_of_pair(one, other)))
    lossy = Bound(tuple(optimization for optimization in bound.optimizations if not optimization.is_exact))
    for tried in (bound, lossy):
        with tried.process(), closing(built(tried, model, folder, devices)) as system:
            trace = system.serve(system.prepare(SPEC.draw(0)))
        assert [len(request.output_ids) for request in trace.requests] == [6, 6, 6]
        outputs.append([request.output_ids for request in trace.requests])
    return outputs, not lossy.optimizations


def exact_recipes() -> list[str]:
    """Each exact technique over the cache, which makes it seconds instead of minutes, and with a draft of the model."""
    kinds = [kind for kind in techniques() if proven_on_cpu(kind) and (kind is KvCache or not clash(KvCache, kind))]
    recipes = [" + ".join(names_of_pair(KvCache, kind)) for kind in kinds]
    return [*recipes, "kv_cache + speculative(draft='half')"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", exact_recipes())
def test_exact_techniques_leave_200_prompts_as_they_were(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By the rule of `prove`: where a token differs, the two best logits were as good as equal, and that is rare."""
    monkeypatch.setitem(EFFORTS, "rigorous", replace(EFFORTS["rigorous"], proof_prompts=200))
    bound = bind(recipe)
    assert bound.exact == bound
    folder = tmp_path_factory.getbasetemp()  # where the reference is computed once for all
    (proof,) = prepare_reference([bound], model="pylm", device="cpu", effort="rigorous", cache_folder=folder).values()
    assert proof["num_prompts"] == 200
    assert proof["is_equal"], proof["divergences"]


@of_the_engine
def test_it_states_what_it_changes_in_the_cost(kind: type[Optimization], tiny_model: str, tmp_path: Path) -> None:
    skip_without_needs(kind)
    device = next(name for name in DEVICES if name in kind.devices)
    costs = []
    for recipe in (with_partners(kind, is_on=False), WORTHWHILE.get(kind.name, with_partners(kind))):
        bound = bind(recipe)
        with bound.process():
            costs.append(build_engine(bound, model=tiny_model, device=device, cache_folder=tmp_path).cost(SPEC))
    if kind.cost is Optimization.cost:
        # how fast the machine runs, or what is ready before the first request: what there is to do stays the same
        assert kind.slot in (Slot.RUNTIME, Slot.CACHE_EXTRA)
        assert costs[0] == costs[1]
    else:
        assert costs[0] != costs[1]
    for cost in costs:
        assert sum(phase.num_outputs for phase in cost.phases.values()) == 18


def test_click_order_does_not_matter() -> None:
    one, other = bind("threads + kv_cache + quantize(bits=4)"), bind("quantize(bits=4) + threads + kv_cache")
    assert one == other
    assert one.recipe.text == "quantize(bits=4) + kv_cache + threads"


def test_knobs_at_their_default_leave_the_canonical_text() -> None:
    assert bind("quantize(bits=8, group_size=64)").recipe.text == "quantize(group_size=64)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warp_drive", "unknown optimization 'warp_drive'; allowed: prune, low_rank, quantize, precision, kv_cache"),
        ("kv_cache(size=3)", "unknown knob of kv_cache 'size'; allowed: dtype, block_size"),
        ("quantize(bits=3)", "unknown value of quantize's knob bits '3'; allowed: 8, 4"),
        ("static_batching(size=0)", "static_batching: knob size is 0; allowed: whole numbers from 1 to 1024"),
        ("static_batching(size=2.5)", "static_batching: knob size is 2.5; allowed: whole numbers"),
        ("kv_cache + speculative(draft=1)", "knob draft '1'; allowed: ngram, half; or any other text"),
        ("prefix_cache", "prefix_cache needs kv_cache in the same recipe; add it"),
        ("kv_cache + preload(prefix='faq')", "preload needs prefix_cache in the same recipe; add it"),
        ("preload(prefix='../faq')", "prefix '../faq' was named; allowed: 1 to 64 of the characters a to z"),
        ("preload(prefix=7)", "unknown value of preload's knob prefix '7'; allowed: any text"),
        (
            "kv_cache + prefix_cache(budget_bytes=1)",
            "knob budget_bytes is 1; allowed: whole numbers from 1048576 to 1099511627776",
        ),
        ("kv_cache + kv_cache", "recipe names 'kv_cache' twice"),
        ("kv_cache(8)", "takes knobs by name only"),
        ("kv_cache +", "cannot be read"),
        ("__import__('os').system('true')", "no optimization"),
        ("kv_cache(dtype=[1])", "no plain value"),
        ("(" * 500 + ")" * 500, "cannot be read"),
        ("\udcff", "cannot be read (it is no UTF-8)"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        bind(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Other(Optimization):
    """A second technique for slots that hold one."""

    name: ClassVar[str] = "other"
    title: ClassVar[str] = "Other"
    slot: ClassVar[Slot] = Slot.SCHEDULER
    exact: ClassVar[bool] = True


def bind_beside(monkeypatch: pytest.MonkeyPatch, text: str, **facts: Any) -> None:
    kind = type("Changed", (Other,), facts)
    monkeypatch.setattr(optimizations, "CATALOG", (*CATALOG, kind))
    bind(text)


def test_two_in_a_slot_that_holds_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="static_batching and other both fill the slot 'scheduler', which holds one"):
        bind_beside(monkeypatch, "static_batching + other")


def test_a_conflict_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"slot": Slot.RUNTIME, "conflicts": {"kv_cache": "it would lose its memory"}}
    with pytest.raises(UsageError, match="other cannot stand with kv_cache: it would lose its memory"):
        bind_beside(monkeypatch, "kv_cache + other", **facts)


def test_a_missing_partner_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="other needs kv_cache in the same recipe; add it"):
        bind_beside(monkeypatch, "other", requires=("kv_cache",))


def test_a_missing_need_is_unavailable_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need("a compiler", lambda: "no c++ was found; install g++")
    with pytest.raises(Unavailable, match=r"other needs a compiler: no c\+\+ was found; install g\+\+"):
        bind_beside(monkeypatch, "other", needs=(need,))


def test_cuda_without_a_device_is_unavailable(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(Unavailable, match="torch sees no CUDA device here; allowed: cpu"):
        build_engine(bind(""), model=tiny_model, device="cuda", cache_folder=tmp_path)


def test_weights_alone_are_preloaded_without_any_partner() -> None:
    assert bind("preload(prefix='')") == bind("preload")


def test_an_open_knob_takes_any_text_and_an_empty_one_only_by_default() -> None:
    suggested = {"choices": ("ngram",), "low": None, "high": None, "is_open": True}
    for value, default in (("ngram", "ngram"), ("anything", "ngram"), ("", "")):
        check_knob("one", "draft", value, default, suggested)
    for value in ("", 1, None):
        with pytest.raises(UsageError, match=r"one's knob draft .*; allowed: ngram; or any other text"):
            check_knob("one", "draft", value, "ngram", suggested)


def test_exact_keeps_only_what_must_not_change_the_output() -> None:
    bound = bind("quantize + kv_cache(block_size=8) + static_batching")
    assert bound.exact.recipe.text == "kv_cache(block_size=8) + static_batching"
    loading = bind("kv_cache + prefix_cache + preload(prefix='faq')")
    assert loading.exact.recipe.text == "kv_cache + prefix_cache"
    assert replace(bound, optimizations=()).exact.optimizations == ()
