"""Which tensors move."""

from __future__ import annotations

import pytest

from visage_core.selection import Selection, SelectionError

NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.post_attention_layernorm.weight",
    "model.layers.1.self_attn.o_proj.weight",
    "model.layers.12.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
]


@pytest.mark.parametrize(
    ("only", "leave_out", "numbers"),
    [
        ((), (), range(11)),
        ((), ("norms",), [0, 2, 4, 5, 7, 8, 10]),
        (("attention",), ("norms",), [4, 5, 7]),
        (("mlp",), (), [2, 8]),
        (("embeddings", "lm_head"), (), [0, 10]),
        (("biases",), (), [4]),
        (("layers:1",), (), [6, 7]),
        (("layers:1-12",), ("norms",), [7, 8]),
        (("*.q_proj.*",), ("*.bias",), [5]),
        (("layers:0",), ("mlp", "norms", "biases"), [5]),
    ],
)
def test_groups_layers_and_patterns(
    only: tuple[str, ...], leave_out: tuple[str, ...], numbers: object
) -> None:
    assert Selection(only, leave_out).of(NAMES) == [NAMES[number] for number in numbers]


@pytest.mark.parametrize(
    ("selection", "field"),
    [
        (Selection(only=("atention",)), "x.only"),
        (Selection(only=("layers:40-50",)), "x.only"),
        (Selection(leave_out=("*.k_proj.*",)), "x.leave_out"),
        (Selection(only=("mlp",), leave_out=("*.up_proj.*", "layers:12")), "x"),
    ],
)
def test_a_slip_of_the_pen_is_told(selection: Selection, field: str) -> None:
    with pytest.raises(SelectionError) as caught:
        selection.require_use(NAMES, "x")
    assert caught.value.field == field


def test_a_model_without_norm_layers_may_leave_them_out() -> None:
    Selection(leave_out=("norms",)).require_use(["w"], "x")
