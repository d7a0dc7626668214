from labkit.bench.overhead import NullSystem, null_overhead
from labkit.core.workload import WorkloadSpec


def test_the_null_system_stamps_every_output_and_does_nothing_else():
    spec = WorkloadSpec("null", "offline", prompt_tokens=1, new_tokens=3, num_requests=2)
    system = NullSystem()
    trace = system.serve(system.prepare(spec.draw(0)))
    assert trace.num_outputs == 6
    assert system.cost(spec).phases == {}
    assert system.facts() == system.quality("quick") == {}


def test_overhead_is_measured_for_events_and_requests():
    overhead = null_overhead()
    assert 0 < overhead.event_s < 1e-3
    assert 0 <= overhead.request_s < 0.1
