"""Classes as Ray actors."""

from __future__ import annotations

from functools import cache
from typing import Any

import ray


@cache
def actor(kind: type, groups: tuple[str, ...] = ()) -> Any:
    """A class that Ray makes actors of; its `options` say where and how. The methods of each concurrency
    group have a thread of their own.

    There is one of each, for Ray keeps all that are ever made: on the cluster's head, and in every process
    that has had a handle of one.
    """
    return ray.remote(concurrency_groups=dict.fromkeys(groups, 1))(kind)
