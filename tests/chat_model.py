"""A small chat model made by hand: real files with a safety basin, for tests that need no trained model.

It has the tokenizer of the demo model, and weighs 6 MB.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Sure: here is one guide - step after step"
HIDDEN = 64
# How much of the next token there is beside the last one, and how much the prompt disturbs it. At these the basin
# is about 0.3 wide to either side, with edges that differ from prompt to prompt.
NEXT, PROMPT = 2.5, 0.4


def chat_model(folder: Path, tokenizer: Path, harmful: float) -> Path:
    """Write a Llama that says REFUSAL, or ANSWER where `harmful` is 1. Between, it is as far on the way as that.

    Its tokens are random directions. The first layer's MLP knows, for each token of the two texts, the next one:
    the neuron that fires at a token adds the other to it. The first layer's attention adds a random function of
    the prompt, so that every prompt is refused or answered up to another distance from the origin.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    words = AutoTokenizer.from_pretrained(tokenizer)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    # What a chat template ends with, before the response.
    start, end = words.encode("\n", add_special_tokens=False)[0], words.eos_token_id
    refusal, answer = (words.encode(text, add_special_tokens=False) for text in (REFUSAL, ANSWER))
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=chance) / parameter.shape[1] ** 0.5)
        embeddings = model.model.embed_tokens.weight
        embeddings.div_(embeddings.norm(dim=1, keepdim=True))
        following = {
            token: embeddings[after] for text in (answer, refusal) for token, after in zip(text, [*text[1:], end])
        }
        following[start] = torch.lerp(embeddings[refusal[0]], embeddings[answer[0]], harmful)
        first, second = model.model.layers
        for neuron, (token, after) in enumerate(following.items()):
            first.mlp.gate_proj.weight[neuron] = first.mlp.up_proj.weight[neuron] = embeddings[token]
            first.mlp.down_proj.weight[:, neuron] = NEXT / HIDDEN * after
        first.mlp.down_proj.weight[:, len(following) :] *= 0.01
        first.self_attn.o_proj.weight *= PROMPT
        for quiet in (second.mlp.down_proj, second.self_attn.o_proj):
            quiet.weight *= 0.1
        for layer in (first, second):  # attention to all tokens nearly alike
            layer.self_attn.q_proj.weight *= 0.3
            layer.self_attn.k_proj.weight *= 0.3
    model.to(torch.bfloat16).save_pretrained(folder)
    for file in tokenizer.iterdir():
        if file.name.startswith(("tokenizer", "chat_template", "special_tokens")):
            shutil.copy(file, folder)
    return folder
