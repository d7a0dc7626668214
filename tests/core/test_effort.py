import pytest

from labkit.core.effort import EFFORTS, effort_of
from labkit.core.errors import UsageError
from labkit.core.inference import MIN_BLOCKS


def test_more_effort_never_means_less_of_anything():
    glance, quick, standard, rigorous = EFFORTS.values()
    for key in (
        "warmup_cap_s",
        "target_pass_s",
        "num_processes",
        "max_blocks",
        "measured_s",
        "quality_tokens",
        "proof_prompts",
    ):
        assert getattr(glance, key) <= getattr(quick, key) <= getattr(standard, key) <= getattr(rigorous, key), key


def test_every_effort_but_a_glance_can_reach_a_verdict():
    glance, *others = EFFORTS.values()
    assert not glance.can_compare
    assert glance.num_blocks(0.0) == 1
    for effort in others:
        assert effort.can_compare
        assert (effort.min_blocks if effort.num_processes == 1 else effort.num_processes) >= MIN_BLOCKS


def test_the_environment_may_choose_another_effort_of_those_there_are(monkeypatch):
    monkeypatch.delenv("LABKIT_EFFORT", raising=False)
    assert effort_of("quick") == "quick"
    monkeypatch.setenv("LABKIT_EFFORT", "glance")
    assert effort_of("quick") == "glance"
    monkeypatch.setenv("LABKIT_EFFORT", "look")
    with pytest.raises(UsageError, match="effort in LABKIT_EFFORT 'look'; allowed: glance, quick, standard, rigorous"):
        effort_of("quick")


def test_a_published_table_rests_on_five_processes_and_thirty_blocks():
    assert EFFORTS["rigorous"].num_processes >= 5
    assert EFFORTS["rigorous"].num_processes * EFFORTS["rigorous"].min_blocks >= 30


@pytest.mark.parametrize(("name", "short", "long"), [("quick", 8, 8), ("standard", 160, 40), ("rigorous", 360, 90)])
def test_blocks_of_short_and_of_long_passes(name, short, long):
    effort = EFFORTS[name]
    assert [effort.num_processes * effort.num_blocks(pass_s) for pass_s in (0.1, 4.0)] == [short, long]


@pytest.mark.parametrize(("pass_s", "num_blocks"), [(100.0, 4), (1.0, 4), (0.5, 6), (0.25, 12), (0.1, 16), (0.0, 16)])
def test_short_passes_take_turns_more_often(pass_s, num_blocks):
    assert EFFORTS["standard"].num_blocks(pass_s) == num_blocks


@pytest.mark.parametrize(("pass_s", "share"), [(0.1, 1.0), (0.5, 1.0), (1.0, 0.5), (50.0, 0.01)])
def test_only_slow_recipes_run_fewer_tokens(pass_s, share):
    assert EFFORTS["quick"].token_share(pass_s) == pytest.approx(share)


@pytest.mark.parametrize(("pass_s", "repeats"), [(10.0, 1), (0.1, 1), (0.06, 2), (0.01, 10), (1e-6, 64), (0.0, 64)])
def test_only_fast_recipes_run_their_requests_again(pass_s, repeats):
    assert EFFORTS["quick"].repeats(pass_s) == repeats
