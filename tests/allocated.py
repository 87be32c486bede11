"""What torch allocates on the CPU, where a profiler sees every tensor."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def most_allocated(run: Callable[[], object]) -> int:
    """The peak of the bytes that torch allocates in a run, above those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    live, most = 0, 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most
