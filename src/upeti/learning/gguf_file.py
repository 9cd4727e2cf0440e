"""Trained weights into a GGUF file of the Llama architecture, with everything else as in the file that they came from.

GGUF keeps the rows of the query and key matrices in another order than Transformers does (halves of a rotation side by side),
and matrices in Q8_0: 32 numbers of 8 bits with a scale. Vectors (norms) stay in 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from upeti.learning.train import TrainingError

_WHOLE: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_OF_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEADS: Final = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
# Told by the writer, or other than in the original.
_WRITTEN_ANEW: Final = {"general.architecture", "general.file_type", "general.quantization_version"}


def write_gguf(weights: Mapping[str, Any], original: Path, path: Path) -> None:
    """Write ``weights`` (Transformers' names, PyTorch tensors) with the settings and the tokenizer of ``original``.

    Raises ``TrainingError`` when that is of another architecture or has tensors that the weights have not.
    """
    gguf = import_module("gguf")
    reader = gguf.GGUFReader(str(original))
    architecture = reader.fields["general.architecture"].contents()
    if architecture != "llama":
        raise TrainingError(
            f"{original} is of the architecture {architecture}; only llama can be written as GGUF here: "
            "train from its folder of safetensors and serve `merged`, for example with vLLM"
        )
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in _WRITTEN_ANEW:
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in reader.tensors:
        data = _weights_of(tensor.name, weights, reader)
        if data.shape != tuple(tensor.shape[::-1]):
            raise TrainingError(
                f"{tensor.name} of {original} has another shape than what was trained: give its own base"
            )
        if data.ndim == 1:
            writer.add_tensor(tensor.name, data)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights_of(name: str, weights: Mapping[str, Any], reader: Any) -> NDArray[np.float32]:
    if name in _WHOLE:
        key, kind = _WHOLE[name], ""
    else:
        block, layer, kind, *_ = [*name.split("."), "", ""]
        key = f"model.layers.{layer}.{_OF_LAYER.get(kind, kind)}.weight" if block == "blk" else name
    if key not in weights:
        raise TrainingError(f"there are no trained weights for {name} ({key}): give the base that was trained")
    data = np.ascontiguousarray(weights[key].detach().float().numpy())
    if kind in _HEADS:
        heads = int(reader.fields[_HEADS[kind]].contents())
        halves = data.reshape(heads, 2, data.shape[0] // heads // 2, data.shape[1])
        data = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(data.shape))
    return data
