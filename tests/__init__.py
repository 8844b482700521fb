"""The tests, real engines among them.

Where pytest-xdist runs several processes of tests, each keeps to cores of its own, as all do that it starts:
the threads of two engines on the same cores wait for each other, and take ten times as long.
"""

import os

# Before torch is imported, which counts the cores then.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) % count :: count] or cores)
# Ray has its workers give way to everything else on the machine; tests are to end in time beside other work.
os.environ.setdefault("RAY_worker_niceness", "0")
