"""A service reads models and prompts below its roots and from its lists, and nothing else on the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from services.jobs import allowed
from services.jobs.allowed import Allowed, NotAllowedError
from services.jobs.store import Jobs
from tests.services.jobs.test_states import submitted
from visage_core.spec import InterpolationDirection, LandscapeSpec, parse_spec


@dataclass(frozen=True)
class Tree:
    """A root with a model and prompts, and beside it what nobody may read."""

    root: Path
    outside: Path

    def allowed(self, **lists: tuple[str, ...]) -> Allowed:
        return Allowed((self.root,), **lists)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "model", root / "deep" / "model", outside / "model"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    for folder in (root, outside):
        (folder / "prompts.txt").write_text("one\n")
    return Tree(root, outside)


def spec_of(model: str = "model", source: str = "harmful", **fields: Any) -> LandscapeSpec:
    return parse_spec({"model": model, "prompts": {"source": source}, **fields})


def model(may: Allowed, name: str) -> str:
    """The model of a spec as it is found."""
    return may.resolve(spec_of(name)).model


def prompts(may: Allowed, source: str) -> str:
    """The prompts of a spec as they are found."""
    return may.resolve(spec_of(source=source)).prompts[0].source


def refused(find: Callable[[Allowed, str], str], may: Allowed, name: str) -> str:
    """The error that a name gives, without the name."""
    with pytest.raises(NotAllowedError) as found:
        find(may, name)
    assert found.value.field == ("model" if find is model else "prompts.0.source")
    assert found.value.problem.startswith(repr(name))
    assert found.value.remedy.startswith("GET /v1/")
    return str(found.value).replace(repr(name), "NAME")


def test_a_model_below_a_root_by_its_name_and_by_its_path(tree: Tree) -> None:
    may, path = tree.allowed(), str(tree.root / "model")
    for name in ("model", "./model", "deep/../model", "model/", path, f"{path}/", f"{tree.root}/./model"):
        assert model(may, name) == path
    assert model(may, "deep/model") == str(tree.root / "deep" / "model")


def test_the_first_root_that_has_it(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "other" / "more").mkdir(parents=True)
    may = Allowed((tmp_path / "other", tree.root))
    assert model(may, "more") == str(tmp_path / "other" / "more")
    assert model(may, "model") == str(tree.root / "model")
    (tmp_path / "other" / "model").mkdir()
    assert model(may, "model") == str(tmp_path / "other" / "model")


def test_a_root_that_is_a_link_or_relative(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tree.root)
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path / "link", Path("root"), Path("link")):
        assert model(Allowed((root,)), "model") == str(tree.root / "model")
        assert model(Allowed((root,)), str(tmp_path / "link" / "model")) == str(tree.root / "model")


def test_without_roots_there_is_nothing(tree: Tree) -> None:
    refused(model, Allowed(()), str(tree.root / "model"))
    refused(model, Allowed(()), "model")


def test_a_name_is_not_looked_for_where_the_service_was_started(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.outside)
    (tree.root / "model" / "config.json").unlink()
    (tree.root / "model").rmdir()
    refused(model, tree.allowed(), "model")
    refused(model, tree.allowed(), "./model")


def test_a_listed_name_of_the_hub_is_no_folder_where_the_service_was_started(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.outside.parent)
    allowed = Allowed((tree.root,), models=("*",))
    assert model(allowed, "org/model") == "org/model"
    refused(model, allowed, "outside/model")


@pytest.mark.parametrize(
    "name",
    [
        "{outside}/model",
        "{outside}",
        "{root}/../outside/model",
        "{root}/model/../../outside/model",
        "{root}/nosuch/../../outside/model",
        "../outside/model",
        "model/../../outside/model",
        "..",
        "../",
        "{root}/..",
        "/",
        "{root}x/model",
        "~/model",
        "file://{outside}/model",
        "file:{outside}/model",
        "file://{root}/model",
        "s3://bucket/model",
        "s3://bucket/model?endpoint_override=http://127.0.0.1:1&scheme=http",
        "http://127.0.0.1/model",
        "org/model",
        "nosuch",
        "model/config.json",
        "{root}/model/config.json",
        "model\0",
        "\0",
        "{outside}/model\0",
        "{root}/model\0/../../outside/model",
        "{root}/" + "../" * 50 + "etc",
        pytest.param("a" * 300, id="a long name"),
        pytest.param("{root}/" + "a" * 300, id="a long name in a path"),
        pytest.param("model/" + "../model/" * 1000, id="a long path"),
        pytest.param("{outside}/" + "a/" * 10_000, id="a very long path"),
    ],
)
def test_models_that_are_not_below_a_root(tree: Tree, name: str) -> None:
    refused(model, tree.allowed(), name.format(root=tree.root, outside=tree.outside))


@pytest.mark.parametrize(
    "source",
    [
        "{outside}/prompts.txt",
        "../outside/prompts.txt",
        "{root}/../outside/prompts.txt",
        "file://{outside}/prompts.txt",
        "file://{root}/prompts.txt",
        "s3://bucket/prompts.txt",
        "http://127.0.0.1/prompts.txt",
        "/etc/passwd",
        "model/config.json",
        "{root}/model/config.json",
        "model",
        "nosuch.txt",
        "Harmful",
        "harmful.jsonl",
        "prompts.txt\0",
        "prompts.txt\0.txt",
        "prompts.TXT",
        "hf:",
        "hf:org/prompts",
        "hf:{outside}/prompts.txt",
        "HF:org/prompts",
        pytest.param("a" * 300 + ".txt", id="a long name"),
        pytest.param("{root}/" + "a" * 300 + ".txt", id="a long name in a path"),
        pytest.param("a/" * 10_000 + "x.txt", id="a very long path"),
    ],
)
def test_prompts_that_are_not_below_a_root(tree: Tree, source: str) -> None:
    refused(prompts, tree.allowed(), source.format(root=tree.root, outside=tree.outside))


def test_prompts_below_a_root_and_built_in_ones(tree: Tree) -> None:
    may, path = tree.allowed(), str(tree.root / "prompts.txt")
    assert prompts(may, "prompts.txt") == prompts(may, path) == path
    for suffix in (".csv", ".jsonl", ".json"):
        (tree.root / f"set{suffix}").touch()
        assert prompts(may, f"set{suffix}") == str(tree.root / f"set{suffix}")
    for name in ("harmful", "benign"):
        assert prompts(Allowed((tree.root / "deep",)), name) == name


def test_a_built_in_set_is_not_hidden_by_a_file(tree: Tree) -> None:
    (tree.root / "harmful").write_text("x")
    assert prompts(tree.allowed(), "harmful") == "harmful"


def test_what_is_outside_is_refused_alike_whether_it_is_there_or_not(tree: Tree) -> None:
    may = tree.allowed()
    for there, missing in [("model", "nosuch"), ("prompts.txt", "nosuch.txt"), ("model", "model/nosuch")]:
        for form in ("{}/{}", "file://{}/{}"):
            names = [form.format(tree.outside, name) for name in (there, missing)]
            for find in (model, prompts):
                assert len({refused(find, may, name) for name in names}) == 1
        for find in (model, prompts):
            assert len({refused(find, may, f"../outside/{name}") for name in (there, missing)}) == 1


def test_links_out_of_a_root_lead_nowhere(tree: Tree) -> None:
    """The same whether there is something at their end."""
    ends = {"there": tree.outside / "model", "missing": tree.outside / "nosuch", "up": tree.root.parent}
    for name, end in ends.items():
        (tree.root / name).symlink_to(end)
        (tree.root / f"{name}.txt").symlink_to(
            tree.outside / ("prompts.txt" if name == "there" else "nosuch")
        )
    may = tree.allowed()
    names = ["there", "missing", "up", "up/outside/model", f"{tree.root}/there", f"{tree.root}/missing"]
    assert len({refused(model, may, name) for name in names}) == 1
    sources = ["there.txt", "missing.txt", f"{tree.root}/there.txt", f"{tree.root}/missing.txt"]
    sources += ["up/outside/prompts.txt", "there/../prompts.txt"]
    assert len({refused(prompts, may, name) for name in sources}) == 1


@pytest.mark.parametrize("end", ["config.json", "nosuch.json"])
def test_a_model_with_a_file_that_is_a_link_out_of_the_root_is_refused(tree: Tree, end: str) -> None:
    (tree.root / "model" / "tokenizer.json").symlink_to(tree.outside / "model" / end)
    refused(model, tree.allowed(), "model")
    refused(model, tree.allowed(), str(tree.root / "model"))


def test_links_within_the_roots_are_followed(tree: Tree, tmp_path: Path) -> None:
    """As a download of the hub is laid out, and to another root."""
    (tree.root / "blob").write_text("{}")
    (tree.root / "model" / "tokenizer.json").symlink_to("../blob")
    (tree.root / "link").symlink_to("model")
    assert model(tree.allowed(), "link") == str(tree.root / "model")
    (tree.root / "model" / "weights").symlink_to(tree.outside / "model" / "config.json")
    assert model(Allowed((tree.root, tree.outside)), "link") == str(tree.root / "model")


def test_links_in_a_circle_lead_nowhere(tree: Tree) -> None:
    for name in ("circle", "circle.txt"):
        (tree.root / name).symlink_to(tree.root / name)
    for name in ("circle", "circle/model", f"{tree.root}/circle"):
        refused(model, tree.allowed(), name)
    refused(prompts, tree.allowed(), "circle.txt")


def test_a_circle_in_a_models_folder_is_no_crash(tree: Tree) -> None:
    (tree.root / "model" / "circle").symlink_to("circle")
    refused(model, tree.allowed(), "model")


def test_a_path_below_a_root_where_nothing_is_yet(tree: Tree) -> None:
    """Allowed, so that the error says that it is not there."""
    assert model(tree.allowed(), f"{tree.root}/nosuch") == f"{tree.root}/nosuch"
    assert prompts(tree.allowed(), f"{tree.root}/nosuch.txt") == f"{tree.root}/nosuch.txt"


def test_a_prompt_file_that_is_too_large(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed, "MOST_PROMPT_BYTES", 1_000)
    (tree.root / "prompts.txt").write_text("x" * 1_000)
    assert prompts(tree.allowed(), "prompts.txt") == str(tree.root / "prompts.txt")
    (tree.root / "prompts.txt").write_text("x" * 1_001)
    with pytest.raises(NotAllowedError, match=r"'prompts.txt' is larger than 1,000 bytes") as found:
        prompts(tree.allowed(), "prompts.txt")
    assert found.value.field == "prompts.0.source"


def test_json_prompts_below_a_root_but_no_file_of_a_checkpoint(tree: Tree) -> None:
    for name in ("set.json", "model/set.json"):
        (tree.root / name).write_text("[]")
    may = tree.allowed()
    assert prompts(may, "set.json") == str(tree.root / "set.json")
    assert may.prompts_here() == [str(tree.root / name) for name in ("prompts.txt", "set.json")]
    refused(prompts, may, "model/set.json")
    refused(prompts, may, "../outside/set.json")


def attack(may: Allowed, named: str) -> str | None:
    """The attack of a spec as it is found."""
    spec = parse_spec({"model": "model", "prompts": [{}, {"attack": named}]})
    return may.resolve(spec).prompts[1].attack


def test_an_attack_file_below_a_root(tree: Tree) -> None:
    for name in ("attack.txt", "attack.json"):
        (tree.root / name).write_text("{request} !")
        for written in (name, f"deep/../{name}", str(tree.root / name)):
            assert attack(tree.allowed(), written) == str(tree.root / name)


def test_a_text_is_no_attack_file_wherever_it_seems_to_lie(tree: Tree) -> None:
    for text in ("{request} ! ! ! !", "{request}/../../outside/prompts.txt"):
        assert attack(tree.allowed(), text) == text


@pytest.mark.parametrize(
    "name",
    [
        "{outside}/prompts.txt",
        "../outside/prompts.txt",
        "{root}/deep/../../outside/prompts.txt",
        "file://{root}/prompts.txt",
        "link.txt",
        "nosuch.txt",
        "model/config.json",
        "hf:prompts.txt",
        "prompts.txt\0.txt",
        pytest.param("a/" * 5_000 + "x.txt", id="a very long path"),
    ],
)
def test_attack_files_that_are_not_below_a_root(tree: Tree, name: str) -> None:
    (tree.root / "link.txt").symlink_to(tree.outside / "prompts.txt")
    with pytest.raises(NotAllowedError, match="is no file below a folder") as found:
        attack(tree.allowed(datasets=("*",)), name.format(root=tree.root, outside=tree.outside))
    assert found.value.field == "prompts.1.attack"


def test_an_attack_file_that_is_too_large(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowed, "MOST_PROMPT_BYTES", 3)
    with pytest.raises(NotAllowedError, match=r"'prompts.txt' is larger than 3 bytes") as found:
        attack(tree.allowed(), "prompts.txt")
    assert found.value.field == "prompts.1.attack"


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("org/*", "org/model", True),
        ("org/*", "org/model-1.5_x", True),
        ("org/model", "org/model", True),
        ("*/model", "org/model", True),
        ("*", "org/model", True),
        ("*/*", "org/model", True),
        ("org/*", "other/model", False),
        ("org/*", "Org/model", False),
        ("org/*", "xorg/model", False),
        ("org/*", "org", False),
        ("org/model", "org/model2", False),
        ("org/*", "org/../other/model", False),
        ("org/*", "org/model\0", False),
        ("org/*", "org/model\nx", False),
        ("org/*", "org/model@main", False),
        ("org/*", "org/model#x", False),
        ("org/*", "org/model?x", False),
        ("org/*", "org/%2e%2e/model", False),
        ("org/*", "org\\model", False),
        ("s3://bucket/models/*", "s3://bucket/models/a", True),
        ("s3://bucket/models/*", "s3://bucket/models/a/b", True),
        ("s3://bucket/models/*", "s3://bucket/other/a", False),
        ("s3://bucket/models/*", "s3://bucket/models/../other", False),
        ("s3://bucket/models/*", "s3://bucket/models/%2e%2e/other", False),
        ("s3://bucket/models/*", "s3://bucket/models/a?endpoint_override=http://169.254.169.254", False),
        ("s3://bucket/models/*", "s3://bucket/models/a#b", False),
        ("s3://*", "s3://key:secret@bucket/models", False),
        ("s3://bucket/*", "gs://bucket/a", False),
        ("s3://bucket/*", "S3://bucket/a", False),
    ],
)
def test_patterns_of_hub_ids_and_bucket_urls(tree: Tree, pattern: str, name: str, found: bool) -> None:
    may = tree.allowed(models=("nothing/*", pattern))
    if found:
        assert model(may, name) == name
    else:
        refused(model, may, name)


@pytest.mark.parametrize("pattern", ["*", "*/*"])
@pytest.mark.parametrize("name", ["{outside}/hidden", "file://{outside}/hidden", "~/hidden", "./hidden", "/"])
def test_no_pattern_of_hub_ids_opens_a_path(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, pattern: str, name: str
) -> None:
    """Not one of another folder, nor of that in which the service was started."""
    (tree.outside / "model").rename(tree.outside / "hidden")
    monkeypatch.chdir(tree.outside)
    refused(model, tree.allowed(models=(pattern,)), name.format(outside=tree.outside))


def test_a_pattern_of_models_is_none_of_prompts(tree: Tree) -> None:
    refused(prompts, tree.allowed(models=("org/*",)), "hf:org/prompts")
    refused(prompts, tree.allowed(models=("*",)), f"{tree.outside}/prompts.txt")
    refused(model, tree.allowed(datasets=("org/*",)), "org/model")


@pytest.mark.parametrize(
    ("pattern", "source", "found"),
    [
        ("org/*", "hf:org/prompts", True),
        ("org/*", "hf:org/prompts:test", True),
        ("org/*", "hf:other/prompts", False),
        ("org/*", "hf:org/../other/prompts", False),
        ("org/*", "hf:org/prompts@main", False),
        ("org/*", "hf:other/prompts:org/prompts", False),
        ("org/*", "org/prompts", False),
        ("*", "hf:{outside}", False),
        ("*/*", "hf:{outside}", False),
        ("*", "hf:~/prompts", False),
        ("*", "{outside}/prompts.txt", False),
    ],
)
def test_patterns_of_data_sets(tree: Tree, pattern: str, source: str, found: bool) -> None:
    may, source = tree.allowed(datasets=(pattern,)), source.format(outside=tree.outside)
    if found:
        assert prompts(may, source) == source
    else:
        refused(prompts, may, source)


def test_a_name_that_no_table_can_hold_is_refused(tree: Tree, jobs: Jobs, engine: Engine) -> None:
    """What is allowed can be submitted, on every database."""
    may = tree.allowed(models=("org/*",))
    for length in (1024, 1025, 5000):
        name = "org/" + "a" * (length - len("org/"))
        try:
            found = model(may, name)
        except NotAllowedError:
            continue
        assert jobs.get(submitted(jobs, model=found).id).model == name


def test_every_part_of_a_spec_is_looked_at(tree: Tree) -> None:
    may = tree.allowed()
    there = {"direction": {"kind": "interpolation", "to": "deep/model"}, "points": 5}
    outside = {"direction": {"kind": "interpolation", "to": f"{tree.outside}/model"}, "points": 5}
    at_random = {"direction": {"kind": "random", "seeds": [0]}, "points": 5}
    found = may.resolve(spec_of(axis=there, second_axis=at_random))
    assert isinstance(found.axis.direction, InterpolationDirection)
    assert found.axis.direction.to == str(tree.root / "deep" / "model")
    (tree.root / "deep" / "d.safetensors").touch()
    file = {"direction": {"file": "deep/d.safetensors"}, "points": 5}
    assert may.resolve(spec_of(axis=file, trajectory=["model"])).files() == {
        "axis.direction.file": str(tree.root / "deep" / "d.safetensors"),
        "trajectory.0": str(tree.root / "model"),
    }
    bad_sets = [{"source": "prompts.txt"}, {"source": "../outside/prompts.txt"}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"axis": outside}, "axis.direction.to"),
        ({"axis": there, "second_axis": outside}, "second_axis.direction.to"),
        ({"axis": {"direction": {"adapter": f"{tree.outside}/model"}}}, "axis.direction.adapter"),
        ({"axis": {"direction": {"file": "../outside/d.safetensors"}}}, "axis.direction.file"),
        ({"axis": {"direction": {"start": "model", "end": "../outside/model"}}}, "axis.direction.end"),
        ({"trajectory": ["model", f"{tree.outside}/model"]}, "trajectory.1"),
        ({"prompts": bad_sets}, "prompts.1.source"),
        ({"model": "../outside/model"}, "model"),
    ]
    for fields, field in cases:
        with pytest.raises(NotAllowedError) as refused_:
            may.resolve(parse_spec({"model": "model", **fields}))
        assert refused_.value.field == field


def test_the_rest_of_a_spec_stays_as_it_is(tree: Tree) -> None:
    spec = spec_of(str(tree.root / "model"), judges=["keyword-modern"], generation={"max_tokens": 7})
    assert tree.allowed().resolve(spec) == spec
    # And again: the runner looks once more at what the service wrote into the table.
    assert tree.allowed().resolve(tree.allowed().resolve(spec_of())) == tree.allowed().resolve(spec_of())


def test_what_there_is_below_the_roots(tree: Tree) -> None:
    may = tree.allowed()
    assert may.models_here() == [str(tree.root / "deep" / "model"), str(tree.root / "model")]
    assert may.prompts_here() == [str(tree.root / "prompts.txt")]
    for name in may.models_here():
        assert model(may, name) == name
    for name in may.prompts_here():
        assert prompts(may, name) == name


def test_what_links_lead_to_outside_is_not_listed(tree: Tree) -> None:
    before = tree.allowed().models_here(), tree.allowed().prompts_here()
    (tree.root / "link").symlink_to(tree.outside)
    (tree.root / "link.txt").symlink_to(tree.outside / "prompts.txt")
    (tree.root / "missing.txt").symlink_to(tree.outside / "nosuch.txt")
    (tree.root / "circle").symlink_to("circle")
    (tree.root / "another").mkdir()
    (tree.root / "another" / "config.json").symlink_to(tree.outside / "model" / "config.json")
    assert (tree.allowed().models_here(), tree.allowed().prompts_here()) == before


def test_a_root_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    may = Allowed((tmp_path / "nosuch",))
    assert may.models_here() == may.prompts_here() == []
    refused(model, may, "model")
