"""What a service is started with."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from services.jobs.limits import Limits
from visage_core.paths import cache_dir
from visage_core.spec import ResourcesSpec


def data_folder() -> Path:
    """Where a service keeps its files: VISAGE_DATA, or ~/.local/share/visage."""
    return Path(os.environ.get("VISAGE_DATA") or Path.home() / ".local" / "share" / "visage")


def _demo_models() -> tuple[Path, ...]:
    return (cache_dir() / "demo",)


class Settings(BaseModel):
    """Everything that an operator decides. A Serve config gives it as `args`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Field(default_factory=data_folder, description="Folder for results, logs and SQLite.")
    database_url: str | None = Field(
        default_factory=lambda: os.environ.get("DATABASE_URL"),
        description="postgresql://... ; SQLite in the data folder unless given. Holds a password: give it by "
        "the environment variable DATABASE_URL.",
    )
    storage_url: str | None = Field(
        default=None, description="Bucket for results, such as s3://BUCKET/PREFIX; else the data folder."
    )
    roots: tuple[Path, ...] = Field(
        default_factory=_demo_models, description="Folders below which jobs may name models and prompts."
    )
    models: tuple[str, ...] = Field(
        default=(), description="Patterns of hub ids and bucket URLs that jobs may name, such as org/*."
    )
    datasets: tuple[str, ...] = Field(
        default=(), description="Patterns of hub data sets that jobs may take prompts from."
    )
    judges: tuple[str, ...] = Field(
        default=(),
        description="URLs of judges to which jobs may send responses, up to and with /v1; URL=VARIABLE where "
        "that environment variable, VISAGE_JUDGE_KEY..., holds the key.",
    )
    workers: int = Field(default=1, ge=1, description="Engines at the same time.")
    cores: int | None = Field(
        default=None, ge=1, description="CPU cores of a worker, or with GPUs of each of them."
    )
    gpu: bool | None = Field(
        default=None,
        description="Whether workers have GPUs; unless given, where the cluster has some at the start. One "
        "that grows from none has to be told.",
    )
    tensor_parallel: int = Field(default=1, ge=1, description="GPUs of a worker.")
    kv_cache_gib: int = Field(default=16, ge=1, description="The most that a job may ask for a worker.")
    jobs_at_once: int = Field(default=2, ge=1, description="Jobs that share the engines at a time.")
    require_keys: bool = Field(
        default=True,
        description="Off: as long as no key was made, everybody who reaches the service may do "
        "all. `visage serve` turns it off, and then listens on the loopback address alone.",
    )
    local_limits: Limits = Field(default=Limits(), description="Limits where no key is needed.")
    private_webhooks: bool = Field(default=False, description="Webhooks may go to private addresses.")
    body_bytes: int = Field(default=2**20, ge=1024, description="Largest request.")

    @property
    def resources(self) -> ResourcesSpec:
        """What its workers have."""
        return ResourcesSpec(workers=self.workers, cores=self.cores, gpu=self.gpu)

    @property
    def database(self) -> str:
        """The URL of the database."""
        return self.database_url or sqlite_url(self.data)


def sqlite_url(data: Path) -> str:
    """The database of a data folder."""
    return f"sqlite:///{data.resolve() / 'visage.db'}"
