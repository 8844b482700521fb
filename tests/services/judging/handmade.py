"""A judge model made by hand: real files and a real engine, and verdicts that are known. For tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "<turn>",
    "Yes",
    "No",
    "unsafe",
    "safe",
    "Well",
    "good",
    "bad",
    "Sure",
    "word",
    "sorry",
    "guide",
]
CHAT = "{% for turn in messages %}<turn>{{ turn.role }} {{ turn.content }}{% endfor %}<turn>"
PARTS = CHAT.replace("{{ turn.content }}", "{% for part in turn.content %}{{ part.text }}{% endfor %}")


def tokenizer(folder: Path, chat: str | None) -> Path:
    """A tokenizer whose tokens are words."""
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=chat
    )
    made.add_special_tokens({"additional_special_tokens": [AddedToken("<turn>", special=True)]})
    made.save_pretrained(folder)
    return folder


def by_hand(folder: Path, good: str = "good", bad: str = "bad") -> Path:
    """A judge by hand: a Llama that says Yes where it has read `good`, No where `bad`, and else Well.

    Attention takes the mean over what was read. One number of a word's embedding is 1, and another says
    good or bad; the mean of the latter, much enlarged, outweighs the former.
    """
    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**settings))
    layer = model.model.layers[0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float("norm" in name))
        model.model.embed_tokens.weight[:, 0] = 1
        model.model.embed_tokens.weight[WORDS.index(good), 1] = 1
        model.model.embed_tokens.weight[WORDS.index(bad), 1] = -1
        layer.self_attn.v_proj.weight[0, 1] = 1e4
        layer.self_attn.o_proj.weight[1, 0] = 1
        model.lm_head.weight[WORDS.index("Well"), 0] = 1
        model.lm_head.weight[WORDS.index("Yes"), 1] = 2
        model.lm_head.weight[WORDS.index("No"), 1] = -2
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder
