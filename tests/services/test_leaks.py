"""What a soak calls growth."""

from services.bench.leaks import Use, growth

BUSY = (0.0, 30.0, 0.0, 5.0, 70.0, 12.0, 0.0, 44.0)  # what work takes, and gives back


def uses(kept: float) -> list[Use]:
    """Of a process that keeps so much of each job, beside one that keeps nothing and one that ends."""
    found = []
    for look in range(24):
        memory = {("service", 1): 500 + kept * 3 * look + BUSY[look % len(BUSY)], ("steady", 2): 80.0}
        if look < 20:
            memory["ended", 3] = 10.0 * look
        found.append(Use(3 * look, memory, {}))
    return found


def test_what_work_takes_and_gives_back_is_no_growth() -> None:
    assert growth(uses(0.0), "memory") == {"service (1)": 0.0, "steady (2)": 0.0}


def test_what_is_left_of_a_job_is_growth() -> None:
    found = growth(uses(0.5), "memory")
    assert abs(found["service (1)"] - 0.5) < 0.1
    assert found["steady (2)"] == 0.0
