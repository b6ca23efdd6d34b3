"""A plain greedy loop over llama.cpp's low-level API, run as its own process: one sequence, no engine. Prints JSON.

Arguments: MODEL, N_TOKENS, then one prompt per argument, in which special tokens are parsed; each prompt is
continued by itself from an empty cache.
"""

import ctypes
import json
import sys

import llama_cpp.llama_cpp as llama


def main() -> None:
    path, count, *prompts = sys.argv[1:]

    @llama.llama_log_callback
    def silent(level, text, data):
        pass

    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    vocab = llama.llama_model_get_vocab(model)
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = 2048
    parameters.n_batch = parameters.n_ubatch = 48
    parameters.n_threads = parameters.n_threads_batch = 1
    context = llama.llama_init_from_model(model, parameters)
    replies = []
    for prompt in prompts:
        text = prompt.encode()
        tokens = (ctypes.c_int32 * (len(text) + 8))()
        size = llama.llama_tokenize(vocab, text, len(text), tokens, len(tokens), True, True)
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        reply = []
        pending = (ctypes.c_int32 * size)(*tokens[:size])
        for _ in range(int(count)):
            assert llama.llama_decode(context, llama.llama_batch_get_one(pending, len(pending))) == 0
            logits = llama.llama_get_logits_ith(context, -1)
            token = max(range(llama.llama_vocab_n_tokens(vocab)), key=logits.__getitem__)
            if llama.llama_vocab_is_eog(vocab, token):
                break
            reply.append(token)
            pending = (ctypes.c_int32 * 1)(token)
        pieces = []
        for token in reply:
            buffer = ctypes.create_string_buffer(256)
            length = llama.llama_token_to_piece(vocab, token, buffer, 256, 0, False)
            pieces.append(buffer.raw[:length])
        replies.append({"prompt": size, "tokens": reply, "text": b"".join(pieces).decode("utf-8", "replace")})
    print(json.dumps(replies))


if __name__ == "__main__":
    main()
