"""Files that somebody made to do harm, or that were damaged on their way: each is read, or refused with its
field and a remedy, in little time and memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tests.checkpoints import CONFIG, write_checkpoint
from visage_core.adapters import Adapter
from visage_core.checkpoints import FLOATS, INDEX, Checkpoint, TensorFiles, open_tokenizer
from visage_core.errors import LONGEST, InputError
from visage_core.judges import keyword_judge
from visage_core.labels import read_coherence, read_labels
from visage_core.policy import load_policy
from visage_core.prompts import load_prompts, render
from visage_core.questions import load_questions
from visage_core.reference import import_direction, read_curve
from visage_core.results import POINTS, Results
from visage_core.spec import ChoiceSpec, PromptSpec, load_spec, parse_experiment, read_spec

FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
SECONDS, MOST_BYTES = 20, 2**30
POLICY = Path(__file__).parents[2] / "deploy" / "policy.yaml"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3),
    max_leaves=6,
)
LORA = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q"]}
FACTORS = {
    "base_model.model.q.lora_A.weight": torch.ones(1, 3),
    "base_model.model.q.lora_B.weight": torch.ones(2, 1),
}


class HangError(BaseException):
    """What no reader takes for a complaint of its own."""


@contextmanager
def bounds() -> Iterator[None]:
    """A few seconds, and a gigabyte more than there is."""

    def late(*_: object) -> None:
        raise HangError

    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)


def attempt(read: Callable[[], Any]) -> tuple[Any, InputError | None]:
    """What a reader gives, or its complaint, which is fit to be shown."""
    with bounds():
        try:
            return read(), None
        except InputError as raised:
            error = raised
    assert error.field
    assert error.remedy
    assert len(error.problem) <= 10 * LONGEST  # where all of it is escapes
    assert all(one.isprintable() or one == "\n" for one in str(error))
    return None, error


def refused(read: Callable[[], Any], *parts: str) -> None:
    found, error = attempt(read)
    assert error is not None, found
    for part in parts:
        assert part in str(error)


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes with a piece left out, changed or put in."""

    def change(place: int, length: int, piece: bytes) -> bytes:
        return content[:place] + piece + content[place + length :]

    return st.builds(change, st.integers(0, len(content)), st.integers(0, 40), st.binary(max_size=8))


# Checkpoints


def file_of(header: object, size: int = 64) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(size)


def tensor(
    dtype: str = "F32", shape: tuple[int, ...] = (4,), begin: int = 0, end: int = 16
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def whole(folder: Path) -> Checkpoint:
    """Open a checkpoint and read every tensor of it."""
    found = Checkpoint.open(folder)
    for name, info in found.tensors.items():
        assert info.dtype in FLOATS
        assert tuple(found.weights[name].shape) == info.shape
    return found


def folder_of(tmp_path: Path, content: bytes, config: bytes | None = None) -> Path:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(json.dumps(CONFIG).encode() if config is None else config)
    (folder / "model.safetensors").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (file_of({"a": tensor(), "b": tensor(begin=8, end=24)}, 24), "offset"),
        (file_of({"a": tensor(), "b": tensor(begin=24, end=40)}, 40), "offset"),
        (file_of({"a": tensor(shape=(250_000,), end=10**6)}), "damaged"),
        (file_of({"a": tensor(begin=-16, end=0)}), "damaged"),
        (file_of({"a": tensor("F99")}, 16), "damaged"),
        (file_of({"a": tensor("I64", (2,))}, 16), "I64"),
        (file_of({"a": tensor("F8_E4M3", (16,))}, 16), "F8_E4M3"),
        (file_of({"a": tensor(shape=(2**63, 2), end=0)}, 0), "damaged"),
        (file_of({"a": tensor(shape=(0, 2**62), end=0)}, 0), "shape"),
        (file_of({"a": tensor(shape=(1,) * 3000, end=4)}, 4), "shape"),
        (file_of(b'{"a": %b, "a": %b}' % ((json.dumps(tensor()).encode(),) * 2), 16), "twice"),
        (file_of(b"[" * 10**6), "nested too deep"),
        (file_of({}, 0), "no tensor"),
        (struct.pack("<Q", 2**62) + b"{}", "header"),
        (struct.pack("<Q", 2**25) + b" " * 2**25, "header"),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, part: str) -> None:
    refused(lambda: whole(folder_of(tmp_path, content)), "model", part)
    (tmp_path / "direction.safetensors").write_bytes(content)
    if part != "no tensor":
        with bounds(), pytest.raises(SafetensorError):
            TensorFiles.of(tmp_path / "direction.safetensors")


@FEW
@given(mutated(save({"model.a": torch.ones(4), "model.b": torch.ones(2, 2).bfloat16()})))
def test_damaged_weights(tmp_path: Path, content: bytes) -> None:
    attempt(lambda: whole(folder_of(tmp_path, content)))


WEIGHTS = file_of({"a": tensor()}, 16)


@FEW
@given(
    st.sampled_from(
        [
            *CONFIG,
            "hidden_size",
            "num_attention_heads",
            "rope_scaling",
            "quantization_config",
            "dtype",
            "text_config",
            "id2label",
            "architectures",
            "auto_map",
            "layer_types",
            "num_labels",
        ]
    ),
    JSON,
)
@example("num_hidden_layers", 10**10)
@example("num_labels", 10**9)
@example("hidden_size", 10**300)
def test_configs_of_the_wrong_kind(tmp_path: Path, field: str, value: Any) -> None:
    config = json.dumps({"model_type": "llama", field: value}).encode()
    attempt(lambda: whole(folder_of(tmp_path, WEIGHTS, config)))


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"\xff",
        b"{" * 10**6,
        b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
        b'{"a": ' + b"9" * 10**5 + b"}",
        b'{"model_type": "llama", "model_type": "gpt2"}',
        b'{"model_type": "llama", "num_hidden_layers": 10000000000}',
        b'{"x": "' + b"x" * 2**23 + b'"}',
    ],
)
def test_configs_that_are_none(tmp_path: Path, config: bytes) -> None:
    refused(lambda: whole(folder_of(tmp_path, WEIGHTS, config)), "config.json")


@pytest.mark.parametrize(
    "shard",
    [
        "../other/model.safetensors",
        "/etc/model.safetensors",
        "..\\m.safetensors",
        "x\0.safetensors",
        "\ud800.safetensors",
        "x" * 5000 + ".safetensors",
        "folder.safetensors",
        "model.safetensors/.",
        "\x1b[31m.safetensors",
        "",
    ],
)
def test_indices_that_name_other_files(tmp_path: Path, shard: str) -> None:
    folder = write_checkpoint(tmp_path / "model", {"a": torch.ones(4)})
    (folder / "folder.safetensors").mkdir()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(lambda: whole(folder), "names")


@FEW
@given(st.binary(max_size=30) | JSON.map(lambda one: json.dumps({"weight_map": one}).encode()))
def test_indices_that_are_none(tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path, WEIGHTS)
    (folder / INDEX).write_bytes(content)
    refused(lambda: whole(folder))


def test_a_checkpoint_with_a_pipe_or_a_device(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors", INDEX):
        folder = write_checkpoint(tmp_path / name, {"a": torch.ones(4)})
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        refused(lambda folder=folder: whole(folder), "no regular file")
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        refused(lambda folder=folder: whole(folder), "no regular file")


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    for name in ("x" * 300, "x\0y"):
        refused(lambda name=name: Checkpoint.open(tmp_path / name), "does not exist")


# Adapters


def adapter(tmp_path: Path, config: object, content: bytes | None = None) -> Adapter:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(save(FACTORS) if content is None else content)
    found = Adapter.open(tmp_path)
    assert [tuple(value.shape) for value in found.values()] == [(2, 3)]
    return found


@FEW
@given(st.sampled_from([*LORA, "alpha_pattern", "use_rslora", "bias", "init_lora_weights", "use_dora"]), JSON)
def test_adapter_configs_of_the_wrong_kind(tmp_path: Path, field: str, value: Any) -> None:
    attempt(lambda: adapter(tmp_path, LORA | {field: value}))


@pytest.mark.parametrize("pattern", ["(.|x)+y?[yz]", "(", "(?P<a>x)(?P=b)"])
def test_an_adapter_with_a_pattern_that_does_harm(tmp_path: Path, pattern: str) -> None:
    module = "x" * 60
    factors = {f"{module}.lora_{part}.weight": torch.ones(1, 1) for part in "AB"}
    config = LORA | {"alpha_pattern": {pattern: 1}}
    refused(lambda: adapter(tmp_path, config, save(factors)), "alpha_pattern")


def test_adapters_whose_factors_do_not_fit(tmp_path: Path) -> None:
    a, b = FACTORS
    for odd in (
        {a: torch.ones(1, 3), b: torch.ones(2, 4)},
        {a: torch.ones(1, 3), b: torch.ones(2)},
        {a: torch.ones(1, 3), b: torch.ones(2, 1, dtype=torch.int8)},
        {a: torch.ones(1, 3)},
    ):
        refused(lambda odd=odd: adapter(tmp_path, LORA, save(odd)))
    refused(lambda: adapter(tmp_path, LORA | {"lora_alpha": 10**400}), "lora_alpha")


# Tokenizers


def tokenizer_folder(tmp_path: Path, settings: object = None, content: bytes | None = None) -> Path:
    Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    given = {"tokenizer_class": "PreTrainedTokenizerFast"} if settings is None else settings
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(given))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return tmp_path


@FEW
@given(
    st.sampled_from(["model", "added_tokens", "normalizer", "pre_tokenizer", "truncation", "version"]), JSON
)
def test_tokenizers_of_the_wrong_kind(tmp_path: Path, field: str, value: Any) -> None:
    document = json.loads((tokenizer_folder(tmp_path) / "tokenizer.json").read_text())
    content = json.dumps(document | {field: value}).encode()
    attempt(lambda: open_tokenizer(tokenizer_folder(tmp_path, content=content), "model"))


@FEW
@given(
    st.sampled_from(
        ["tokenizer_class", "bos_token", "added_tokens_decoder", "model_max_length", "extra_special_tokens"]
    ),
    JSON,
)
def test_tokenizer_settings_of_the_wrong_kind(tmp_path: Path, field: str, value: Any) -> None:
    given = {"tokenizer_class": "PreTrainedTokenizerFast"} | {field: value}
    attempt(lambda: open_tokenizer(tokenizer_folder(tmp_path, given), "model"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{% for",
        "{{ x.y.z }}",
        "{{ messages[9].role }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 9 ** 9 ** 2 ~ messages + 1 }}",
    ],
)
def test_chat_templates_that_fail(tmp_path: Path, template: str) -> None:
    tokenizer = open_tokenizer(tokenizer_folder(tmp_path), "model")
    tokenizer.chat_template = template
    refused(lambda: render(tokenizer, ["a"], "default"), "chat template")


# Specs and policies

NINE = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
BOMBS = {
    "lists": f"a0: &a0 [x]\n{NINE}model: *a8\n",
    "merges": "a0: &a0 {k: 1}\n" + NINE.replace("[", "{<<: [").replace("]", "]}") + "<<: *a8\nmodel: x\n",
    "texts": f"a0: &a0 {'x' * 10**6}\nmodel: [{'*a0, ' * 1000}]\n",
    "itself": "model: &a [*a]\n",
    "depth": f"model: {'[' * 10**5}\n",
    "blocks": "\n".join(f"{' ' * depth}a:" for depth in range(1000)) + "\n",
    "values": f"model: [{'a,' * 10**6}]\n",
    "size": f"model: {'x' * 2**23}\n",
    "digits": f"model: x\naxis: {{points: {'9' * 10**5}}}\n",
    "hexadecimal": f"model: x\naxis: {{points: 0x{'9' * 10**5}}}\n",
    "sixties": f"model: {':'.join(['59'] * 10**5)}\n",
    "date": "model: 2001-99-99\n",
    "twice": "model: x\nmodel: y\n",
    "code": "model: !!python/object/apply:os.system [x]\n",
    "documents": "model: x\n---\nmodel: y\n",
    "text": "x" * 1000,
    "bytes": "model: \udcff",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_that_unfolds_or_deceives(tmp_path: Path, name: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(BOMBS[name].encode(errors="surrogateescape"))
    refused(lambda: parse_experiment(read_spec(path)), "spec", str(path))
    refused(lambda: load_policy(path))


def test_anchors_and_merges_of_a_reasonable_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("{model: x, axis: &one {points: 3, direction: &d {seeds: [1]}},"
                    " second_axis: {<<: *one, points: 5, direction: *d}}")  # fmt: skip
    spec = load_spec(path)
    assert spec.second_axis is not None
    assert (spec.axis.points, spec.second_axis.points) == (3, 5)


@FEW
@given(st.text("ab:-[]{}&*!<>|?'\"#%@,\n\t 01.~\x00\ud800\u2028", max_size=40))
def test_any_text_as_a_spec(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    attempt(lambda: parse_experiment(read_spec(path)))


@FEW
@given(mutated(POLICY.read_bytes()))
def test_a_damaged_policy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(content)
    attempt(lambda: load_policy(path))


@FEW
@given(st.sampled_from(["model", "axis", "prompts", "judges", "engine", "generation", "trajectory"]), JSON)
@example("axis", {"points": 10**400})
@example("axis", {"low": -(10**400)})
@example("axis", {"low": -1e308, "high": 1e308})
@example("\x1b[2J", 1)
def test_specs_of_the_wrong_kind(field: str, value: Any) -> None:
    attempt(lambda: parse_experiment({"model": "x"} | {field: value}))


# Results


def parquet(tmp_path: Path) -> bytes:
    row = {field.name: None if field.nullable else [] for field in POINTS}
    numbers = {field.name: 0 for field in POINTS if not field.nullable and not pa.types.is_list(field.type)}
    pq.write_table(pa.Table.from_pylist([row | numbers], schema=POINTS), tmp_path / "one.parquet")
    return (tmp_path / "one.parquet").read_bytes()


@FEW
@given(data=st.data())
def test_damaged_points(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "points.parquet").write_bytes(data.draw(mutated(parquet(tmp_path))))
    attempt(lambda: Results(tmp_path).points())


def test_points_of_other_columns_or_of_more_than_any_memory(tmp_path: Path) -> None:
    other = pa.table({"x": [1]}).replace_schema_metadata(POINTS.metadata)
    pq.write_table(other, tmp_path / "points.parquet")
    refused(lambda: Results(tmp_path).points(), "other columns")
    nulls = pa.table({"x": pa.nulls(2**24, pa.int64())}).replace_schema_metadata(POINTS.metadata)
    with pq.ParquetWriter(tmp_path / "points.parquet", nulls.schema) as writer:
        for _ in range(2**6):
            writer.write_table(nulls)
    assert (tmp_path / "points.parquet").stat().st_size < 2**22
    refused(lambda: Results(tmp_path).points(), "unfolds")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 10**6, b'{"a": 1, "a": 2}'])
def test_damaged_summaries(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "summary.json").write_bytes(content)
    refused(lambda: Results(tmp_path).read_json("summary.json"), "damaged")


# What is asked, labels, and what the paper's code writes

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "prompts, CSV": (".csv", lambda path: load_prompts(PromptSpec(source=str(path)))),
    "prompts, lines": (".jsonl", lambda path: load_prompts(PromptSpec(source=str(path)))),
    "prompts, JSON": (".json", lambda path: load_prompts(PromptSpec(source=str(path)))),
    "attack, text": (".txt", lambda path: load_prompts(PromptSpec(attack=str(path)))),
    "attack, JSON": (".json", lambda path: load_prompts(PromptSpec(attack=str(path)))),
    "questions, CSV": (".csv", lambda path: load_questions(ChoiceSpec(source=str(path)))),
    "questions, lines": (".jsonl", lambda path: load_questions(ChoiceSpec(source=str(path)))),
    "labels, CSV": (".csv", read_labels),
    "labels, lines": (".jsonl", read_coherence),
    "phrases": (".txt", lambda path: keyword_judge("own", str(path))),
    "curve": (".jsonl", read_curve),
    "direction": (".pt", lambda path: import_direction(path, path.with_suffix(".safetensors"), 1, 1.0)),
    "spec": (".json", load_spec),
}


@pytest.mark.parametrize("name", READERS)
@settings(FEW, max_examples=25)
@given(
    content=st.binary(max_size=40)
    | st.text('[]{}:,"\\ \n\rae19.-', max_size=40).map(str.encode)
    | JSON.map(lambda one: json.dumps([one]).encode())
    | JSON.map(lambda one: json.dumps({"prompt": one}).encode())
)
@example(content=b"[" * 10**5)
@example(content=b'{"a":' * 10**5)
@example(content=b'{"label": ' + b"9" * 10**5 + b"}")
@example(content=b"prompt\n" + b"x" * 10**6)
def test_any_file(tmp_path: Path, name: str, content: bytes) -> None:
    suffix, read = READERS[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    attempt(lambda: read(path))


@pytest.mark.parametrize("name", READERS)
def test_no_file(tmp_path: Path, name: str) -> None:
    suffix, read = READERS[name]
    pipe, folder, device = (tmp_path / f"{kind}{suffix}" for kind in ("pipe", "folder", "device"))
    os.mkfifo(pipe)
    folder.mkdir()
    device.symlink_to("/dev/zero")
    for path in (pipe, folder, device, tmp_path / f"none{suffix}", tmp_path / f"{'x' * 5000}{suffix}"):
        refused(lambda path=path: read(path))
