"""llama.cpp through llama-cpp-python's low-level API: the same weights as GGUF, sequences decoded together.

Source: ggml-org/llama.cpp; the calls are those of its `batched` example, its settings the library's defaults.
"""

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labkit.core.errors import LabkitError
from labkit.core.workload import Workload
from labkit.peers.base import Peer, Prepared, Settings, TokenIds, import_package
from labkit.peers.gguf import cached_gguf

REMEDY = 'CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" pip install llama-cpp-python (compiles; some 10 minutes)'
Array = npt.NDArray[Any]

_CELLS = 256  # llama.cpp pads the cache of a sequence to a multiple of this
_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_LOGS: list[Any] = []  # the library holds bare pointers to these, also after the peer is gone


class LlamaCppPeer(Peer):
    """libllama on the CPU, greedy by argmax over its logits."""

    dtypes = ("f16", "q8_0", "q4_0")
    devices = ("cpu",)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        config = settings.source.config
        # the llama architecture of llama.cpp ignores a sliding window, so sequences stay within it
        self.max_positions = min(config.max_positions, config.sliding_window or config.max_positions)
        self._api = import_package("llama_cpp", peer="llama_cpp", remedy=REMEDY)
        self._context: Any = None
        self._room = (0, 0)
        self._errors: list[str] = []
        log = self._api.llama_log_callback(self._keep_error)
        _LOGS.append(log)
        self._api.llama_log_set(log, ctypes.c_void_p(0))
        self._api.llama_backend_init()
        path = cached_gguf(
            settings.source.checkpoint,
            config,
            dtype=settings.dtype,
            key=settings.source.hash,
            cache_folder=settings.cache_folder,
        )
        parameters = self._api.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = self._api.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise LabkitError(f"llama.cpp could not load {path}: {self._reason()}")
        self._reserve(1, _CELLS)  # read-back of threads needs a context

    def prepare(self, workload: Workload) -> Prepared:
        """Tokenize, and make room in the cache for the largest batch."""
        prepared = super().prepare(workload)
        outstanding = {"single_stream": 1, "closed_loop": workload.concurrency}
        num_waiting = outstanding.get(workload.scenario, len(prepared.prompts))
        self._reserve(min(num_waiting, self.settings.batch or num_waiting), prepared.max_tokens)
        return prepared

    def generate(self, prompts: Sequence[TokenIds], num_tokens: int, stamps: list[int]) -> list[TokenIds]:
        """Prompts in one `llama_decode`, then one for each step over all sequences."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)
        lengths = np.array([len(prompt) for prompt in prompts])
        sequences = np.arange(len(prompts))
        is_last = np.zeros(lengths.sum())
        is_last[lengths.cumsum() - 1] = 1
        positions = np.concatenate([np.arange(length) for length in lengths])
        steps = [self._step(np.concatenate(prompts), positions, np.repeat(sequences, lengths), is_last)]
        stamps.append(time.perf_counter_ns())
        for index in range(num_tokens - 1):
            steps.append(self._step(steps[-1], lengths + index, sequences, np.ones(len(prompts))))
            stamps.append(time.perf_counter_ns())
        return [tuple(row) for row in np.stack(steps, axis=1).tolist()]

    def facts(self) -> Mapping[str, Any]:
        """Weights as in the file, threads as the context reports them, and the instruction sets of the build."""
        return {
            "weights_bytes": int(self._api.llama_model_size(self._model)),
            "threads": int(self._api.llama_n_threads(self._context)),
            "version": f"llama-cpp-python {self._api.__version__}",
            "kernels": {
                "linear": self.settings.dtype,
                "build": self._api.llama_print_system_info().decode().strip(" |"),
            },
            "notes": [f"matrices {self.settings.dtype}, embedding and head too; KV cache f16"],
        }

    def close(self) -> None:
        """Free the context and the weights."""
        self._free_context()
        if self._model:
            self._api.llama_model_free(self._model)
            self._model = None

    def _step(self, ids: Array, positions: Array, sequences: Array, wants_logits: Array) -> Array:
        """Run tokens given by their id, position and sequence, each [T]; the likeliest next id where wanted, [B]."""
        num_tokens = self._batch.n_tokens = len(ids)
        self._ids[:num_tokens] = ids
        self._positions[:num_tokens] = positions
        self._wants_logits[:num_tokens] = wants_logits
        for index, sequence in enumerate(sequences.tolist()):
            self._batch.seq_id[index][0] = sequence
        status = self._api.llama_decode(self._context, self._batch)
        if status:
            raise LabkitError(f"llama.cpp's llama_decode failed with status {status}: {self._reason()}")
        shape = int(wants_logits.sum()), self.settings.source.config.vocab_size
        logits: Array = np.ctypeslib.as_array(self._api.llama_get_logits(self._context), shape)
        likeliest: Array = logits.argmax(axis=1)
        return likeliest

    def _reserve(self, num_sequences: int, num_tokens: int) -> None:
        """Make a context with `num_tokens` cells for each of `num_sequences`, unless there is one that holds them."""
        room = max(num_sequences, self._room[0]), max(-(-num_tokens // _CELLS) * _CELLS, self._room[1])
        if room == self._room:
            return
        self._free_context()
        api, capacity = self._api, room[0] * room[1]
        parameters = api.llama_context_default_params()
        parameters.n_seq_max = room[0]
        parameters.n_ctx = parameters.n_batch = capacity  # all prompts go in at once
        parameters.n_threads = parameters.n_threads_batch = self.settings.threads
        self._context = api.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise LabkitError(f"llama.cpp could not make a context of {room[0]} × {room[1]} tokens: {self._reason()}")
        self._room = room
        self._batch = api.llama_batch_init(capacity, 0, 1)
        self._ids = np.ctypeslib.as_array(self._batch.token, (capacity,))
        self._positions = np.ctypeslib.as_array(self._batch.pos, (capacity,))
        self._wants_logits = np.ctypeslib.as_array(self._batch.logits, (capacity,))
        np.ctypeslib.as_array(self._batch.n_seq_id, (capacity,))[:] = 1

    def _free_context(self) -> None:
        if self._context:
            self._api.llama_batch_free(self._batch)
            self._api.llama_free(self._context)
            self._context = None

    def _keep_error(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        """Instead of the library's log on stderr: its errors, for the message of an exception."""
        if level == _ERROR:
            self._errors.append(text.decode(errors="replace").strip())

    def _reason(self) -> str:
        return self._errors[-1] if self._errors else "it gave no reason"
