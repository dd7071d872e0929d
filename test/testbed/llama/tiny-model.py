"""Writes a GGUF model that is as small as one can be and still answers: python tiny-model.py FILE

Architecture llama, 2 layers of 64, random weights, one token per byte. What it says means nothing; that it says
something, token by token, is what the tests need. The same file each time.
"""

import sys

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 64, 2, 4, 128, 512

# Token ids: unknown, begin, end, then the 256 bytes as SentencePiece spells them.
tokens = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % byte for byte in range(256)]
types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256

random = np.random.default_rng(7)


def weights(*shape: int) -> np.ndarray:
    return (random.standard_normal(shape) * 0.05).astype(np.float32)


writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_name("tiny")
writer.add_context_length(CONTEXT)
writer.add_embedding_length(WIDTH)
writer.add_block_count(LAYERS)
writer.add_feed_forward_length(HIDDEN)
writer.add_head_count(HEADS)
writer.add_head_count_kv(HEADS)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_dimension_count(WIDTH // HEADS)
writer.add_vocab_size(len(tokens))
writer.add_tokenizer_model("llama")
writer.add_token_list(tokens)
writer.add_token_scores([0.0] * len(tokens))
writer.add_token_types(types)
writer.add_unk_token_id(0)
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)

writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
for layer in range(LAYERS):
    for name, shape in {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (HIDDEN, WIDTH),
        "ffn_up": (HIDDEN, WIDTH),
        "ffn_down": (WIDTH, HIDDEN),
    }.items():
        writer.add_tensor(f"blk.{layer}.{name}.weight", weights(*shape))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, dtype=np.float32))
writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
writer.add_tensor("output.weight", weights(len(tokens), WIDTH))

writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
