"""The worst case: the direction in which safety is lost soonest, looked for with Ray Tune."""
