"""The files of a model's folder that a measurement depends on: all that vLLM or transformers may read."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

# Weights and their index, configuration, tokenizers of every kind, chat templates, adapters, code. Pickles
# are never read where there are safetensors, and a model without these is refused.
PATTERNS = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.py",
    "*.model",
    "*.tiktoken",
    "*.spm",
    "*.bpe",
    "*.codes",
    "adapter_model*",
    "added_tokens*",
    "chat_template*",
    "generation_config*",
    "merges*",
    "special_tokens*",
    "tokenizer*",
    "vocab*",
)
# What trainers leave, and nothing that loads a model reads.
OF_TRAINERS = ("trainer_state.json", "training_args.json", "*_results.json")
# transformers reads further chat templates from here.
TEMPLATES = "additional_chat_templates"


def model_files(folder: Path) -> list[str]:
    """Return the names of the files in a model's folder that may change what it does, sorted. Others, such as
    README.md, are left out. Raises OSError."""
    paths = [*folder.iterdir(), *(folder / TEMPLATES).glob("*")]
    names = [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    return sorted(filter(is_model_file, names))


def is_model_file(name: str) -> bool:
    """Whether a file may change what a model does, by its path in the model's folder."""
    folder, _, last = name.rpartition("/")
    if folder:
        return folder == TEMPLATES and last.endswith(".jinja")
    return _matches(last, PATTERNS) and not _matches(last, OF_TRAINERS)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
