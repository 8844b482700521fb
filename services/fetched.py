"""A service's results as a folder that `visage show` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.client import Client
from visage_core.plots import figure_name, figure_styles
from visage_core.results import RESPONSES, Results


def write_results(client: Client, job: str, out: Path, responses: bool = False) -> None:
    """Fetch a job's results into a folder, with the file names of `visage run`."""
    spec = client.get(job).spec
    table, summary = client.grid(job), client.summary(job)
    figures = {
        f"{figure_name(number, style)}{suffix}": client.figure(job, kind, number, style)
        for number in range(len(spec.prompts))
        for style in figure_styles(spec)
        for suffix, kind in ((".html", "text/html"), (".png", "image/png"))
    }
    kept = _responses(client, job) if responses else None
    results = Results(out)
    results.write_json("spec.json", spec.model_dump(mode="json"))
    results.write_json("summary.json", json.loads(summary.model_dump_json()))
    if summary.geometry is not None:
        results.write_json("geometry.json", summary.geometry)
    pq.write_table(table, out / "points.parquet", compression="zstd")
    if kept is not None:
        pq.write_table(kept, out / "responses.parquet", compression="zstd")
    for name, content in figures.items():
        (out / name).write_bytes(content)


def _responses(client: Client, job: str) -> pa.Table:
    rows, cursor = [], 0
    while True:
        page = client.responses(job, cursor, limit=1000)
        rows += [item.model_dump() for item in page.items]
        if page.next is None:
            return pa.Table.from_pylist(rows, schema=RESPONSES)
        cursor = page.next
