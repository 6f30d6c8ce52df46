"""Serve a generated llama model with random weights, until stdin closes.

Runs in an environment of its own: python live_server.py MODEL_FILE
"""

import sys
import time

import gguf
import numpy as np
import xllamacpp

EMBED, HEADS, FEED, LAYERS, CONTEXT = 64, 4, 128, 2, 512


def write_model(path: str) -> None:
    """Write the smallest llama that speaks bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBED)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBED // HEADS)
    tokens = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % n for n in range(256)]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2
    kinds += [gguf.TokenType.BYTE] * 256
    words = [chr(n).encode() for n in range(33, 127)] + ["\u2581".encode()]
    tokens += words
    kinds += [gguf.TokenType.NORMAL] * len(words)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(7)

    def tensor(name: str, *shape: int) -> None:
        values = random.normal(0, 0.3, shape)
        writer.add_tensor(name, values.astype(np.float32))

    tensor("token_embd.weight", len(tokens), EMBED)
    tensor("output.weight", len(tokens), EMBED)
    writer.add_tensor("output_norm.weight", np.ones(EMBED, np.float32))
    for n in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{n}.{name}.weight", EMBED, EMBED)
        tensor(f"blk.{n}.ffn_gate.weight", FEED, EMBED)
        tensor(f"blk.{n}.ffn_up.weight", FEED, EMBED)
        tensor(f"blk.{n}.ffn_down.weight", EMBED, FEED)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{n}.{name}.weight", np.ones(EMBED, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Write the model, serve it on a free port, say where."""
    write_model(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.n_predict = 4000
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.chat_template = "chatml"
    server = xllamacpp.Server(params)
    print("READY", server.listening_address, flush=True)
    while sys.stdin.buffer.read(1):
        time.sleep(0.1)


if __name__ == "__main__":
    main()
