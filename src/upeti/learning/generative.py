"""Level 4 of the ladder: a generative model with open weights, fine-tuned with LoRA on a task's questions and answers.

It learns the very messages that clients send and the teacher's text, with loss on the answer alone. What comes out is whole
again: ``model.gguf``, which the embedded server serves (channel of kind ``embedded`` with ``model_file``), and ``merged``, a
folder in safetensors, which vLLM or any other server of Hugging Face models does. PyTorch, Transformers and PEFT train it.

Rules: nothing is downloaded; a base is a packaged model, a ``.gguf`` file of the Llama architecture, or a folder of
safetensors. The loop is plain: with PEFT for the adapter, a trainer would add dependencies and no line less.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from upeti.core.errors import ConfigError
from upeti.learning.gguf_file import write_gguf
from upeti.learning.torch_extra import half_precision, need_torch
from upeti.learning.train import Progress, TrainingError
from upeti.providers.embedded_server import MODEL_DEFAULT, MissingPackageError, find_model

PAIRS_MIN: Final = 20
GGUF_FILE: Final = "model.gguf"
MERGED_FOLDER: Final = "merged"
RECORD_FILE: Final = "generative.json"
_TARGETS: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_WARM_UP: Final = 0.1  # of the steps
_CHAT: Final = "chat_completions"


class Message(msgspec.Struct, frozen=True):
    """One message of a request; text only."""

    role: str
    content: str


class Pair(msgspec.Struct, frozen=True):
    """What was asked and what the teacher answered."""

    messages: tuple[Message, ...]
    answer: str


class LoraOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the adapter is trained. ``layers``: only the last so many have one (0: all), which takes less time."""

    rank: int = 8
    alpha: int = 16
    layers: int = 0
    epochs: int = 2
    batch: int = 8
    learning_rate: float = 1e-3
    tokens_max: int = 512  # of question and answer; longer pairs are left out
    held_out: float = 0.1  # of the pairs, which the best epoch is told by
    seed: int = 0
    threads: int = 1


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """``generative.json``: what was made of what. ``losses``: of the pairs held out, nats a token, first and after each epoch."""

    base: str
    base_sha256: str
    options: LoraOptions
    pairs: int
    too_long: int
    losses: tuple[float, ...]
    kept_epoch: int
    files: dict[str, str]  # name -> SHA-256


class _Tokens(msgspec.Struct, frozen=True):
    ids: list[int]
    asked: int  # how many of them are the question


class _Request(msgspec.Struct):
    messages: list[Message]


class _Said(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Said
    finish_reason: str = ""


class _Answer(msgspec.Struct):
    choices: list[_Choice]


class _Line(msgspec.Struct):
    request: _Request
    answer: _Answer
    wire: str = ""


_lines = msgspec.json.Decoder(_Line)


def pairs_from_lines(lines: Iterable[bytes]) -> tuple[list[Pair], dict[str, int]]:
    """Return the pairs of a data set's lines, and what was left out: reason -> rows. Duplicates of a question go."""
    found: dict[tuple[Message, ...], Pair] = {}
    left_out: Counter[str] = Counter()
    for line in lines:
        try:
            row = _lines.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            left_out["not a question and an answer in text"] += 1
            continue
        if row.wire != _CHAT or len(row.answer.choices) != 1 or row.answer.choices[0].finish_reason not in ("", "stop"):
            left_out["not one whole answer of chat completions"] += 1
            continue
        messages = tuple(row.request.messages)
        if messages in found:
            left_out["the question is there already"] += 1
        else:
            found[messages] = Pair(messages, row.answer.choices[0].message.content)
    return list(found.values()), dict(left_out)


def train_generative(
    pairs: Sequence[Pair],
    folder: Path,
    *,
    base: str = MODEL_DEFAULT,
    options: LoraOptions = LoraOptions(),  # noqa: B008 (frozen)
    progress: Progress = lambda done, total, what: None,
) -> Record:
    """Train on ``pairs`` (of the training side only), merge, and write ``folder``, which appears whole or not at all.

    ``base``: a packaged model's name, a ``.gguf`` file, or a folder of safetensors (then no GGUF is written). Raises
    ``ConfigError`` where a package or the base is missing, ``TrainingError`` where there are too few pairs or no such folder.
    """
    torch = need_torch("peft", "gguf")
    if folder.exists():
        raise TrainingError(f"{folder} is there already: a model is never changed, give another folder")
    source = _source(base)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        progress(0, options.epochs + 2, "loading the base")
        model, tokenizer = load_model(source)
        tokens = [_tokens(tokenizer, pair) for pair in pairs]
        short = [one for one in tokens if len(one.ids) <= options.tokens_max]
        if len(short) < PAIRS_MIN:
            raise TrainingError(
                f"{len(short)} pairs of at most {options.tokens_max} tokens are too few: it needs {PAIRS_MIN}, better 500"
            )
        model, losses, kept = _train(torch, model, short, options, progress)
        progress(options.epochs + 1, options.epochs + 2, "merging and writing")
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_merged(torch, model, tokenizer, partial / MERGED_FOLDER)
        if source.is_file():
            write_gguf(model.state_dict(), source, partial / GGUF_FILE)
    record = Record(
        base=base,
        base_sha256=_sha256(source if source.is_file() else source / "model.safetensors"),
        options=options,
        pairs=len(short),
        too_long=len(tokens) - len(short),
        losses=tuple(losses),
        kept_epoch=kept,
        files={str(path.relative_to(partial)): _sha256(path) for path in sorted(partial.rglob("*")) if path.is_file()},
    )
    (partial / RECORD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    partial.rename(folder)
    progress(options.epochs + 2, options.epochs + 2, "done")
    return record


def load_model(source: Path) -> tuple[Any, Any]:
    """Return model (float32) and tokenizer of a ``.gguf`` file, dequantised, or of a folder."""
    transformers = import_module("transformers")
    where = source.parent if source.is_file() else source
    more: dict[str, Any] = {"local_files_only": True}
    if source.is_file():
        more["gguf_file"] = source.name
    torch = import_module("torch")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(where), dtype=torch.float32, **more)
    return model, transformers.AutoTokenizer.from_pretrained(str(where), **more)


def _source(base: str) -> Path:
    if Path(base).is_dir():
        if not (Path(base) / "model.safetensors").is_file():
            raise ConfigError(
                f"{base} has no model.safetensors: give a folder of a Hugging Face model in one such file"
            )
        return Path(base)
    try:
        return find_model(base)
    except (MissingPackageError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from None


def _tokens(tokenizer: Any, pair: Pair) -> _Tokens:
    messages = [{"role": one.role, "content": one.content} for one in pair.messages]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    question = tokenizer.encode(asked, add_special_tokens=False)
    answer = tokenizer.encode(pair.answer, add_special_tokens=False)
    return _Tokens([*question, *answer, tokenizer.eos_token_id], len(question))


def _train(
    torch: Any, model: Any, tokens: list[_Tokens], options: LoraOptions, progress: Progress
) -> tuple[Any, list[float], int]:
    """Return the model with the adapter merged in, the losses of the pairs held out, and the epoch that was kept."""
    peft = import_module("peft")
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(len(tokens))
    count = max(1, round(options.held_out * len(order)))
    held, taught = [tokens[place] for place in order[:count]], [tokens[place] for place in order[count:]]
    layers = model.config.num_hidden_layers
    last = list(range(layers - options.layers, layers)) if 0 < options.layers < layers else None
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=_TARGETS,
        layers_to_transform=last,
        task_type="CAUSAL_LM",
    )
    if half_precision(torch):
        model = model.to(torch.bfloat16)
    adapted = peft.get_peft_model(model, config)  # the adapter itself is in float32
    weights = [one for one in adapted.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=0.0)
    steps = options.epochs * -(-len(taught) // options.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1.0, _WARM_UP * steps)) * (1 - 0.9 * step / max(1, steps))
    )
    losses = [_loss_of(torch, model, held, options.batch)]
    best = copy.deepcopy([one.detach() for one in weights])
    kept = 0
    for epoch in range(1, options.epochs + 1):
        progress(epoch, options.epochs + 2, f"epoch {epoch}")
        adapted.train()
        shuffled = rng.permutation(len(taught))
        for start in range(0, len(shuffled), options.batch):
            loss, answered = _loss(torch, model, [taught[place] for place in shuffled[start : start + options.batch]])
            optimizer.zero_grad()
            (loss / answered).backward()
            optimizer.step()
            schedule.step()
        losses.append(_loss_of(torch, model, held, options.batch))
        if losses[-1] <= min(losses):
            best, kept = copy.deepcopy([one.detach() for one in weights]), epoch
    with torch.no_grad():
        for weight, value in zip(weights, best, strict=True):
            weight.copy_(value)
    adapted.float()
    return adapted.merge_and_unload(), losses, kept


def _loss(torch: Any, model: Any, tokens: list[_Tokens]) -> tuple[Any, int]:
    """Return the summed loss of the answers' tokens, and how many they are."""
    width = max(len(one.ids) for one in tokens)
    ids = torch.zeros((len(tokens), width), dtype=torch.long)
    mask = torch.zeros((len(tokens), width), dtype=torch.long)
    wanted = torch.full((len(tokens), width), -1)
    for row, one in enumerate(tokens):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        mask[row, : len(one.ids)] = 1
        wanted[row, one.asked - 1 : len(one.ids) - 1] = torch.tensor(one.ids[one.asked :])
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    places = wanted >= 0
    # The vocabulary's scores at the answers' places alone: they are most of the work of a small model.
    scores = model.lm_head(hidden[places]).float()
    return torch.nn.functional.cross_entropy(scores, wanted[places], reduction="sum"), int(places.sum())


def _loss_of(torch: Any, model: Any, tokens: list[_Tokens], batch: int) -> float:
    model.eval()
    total, answered = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(tokens), batch):
            loss, count = _loss(torch, model, tokens[start : start + batch])
            total += float(loss)
            answered += count
    return round(total / answered, 4)


def _write_merged(torch: Any, model: Any, tokenizer: Any, folder: Path) -> None:
    """Write what is read by whoever reads a Hugging Face model; not through ``save_pretrained``, which takes a model that came
    out of a GGUF file for a quantised one and refuses."""
    from safetensors.torch import save_file

    folder.mkdir()
    weights = {name: one.to(torch.bfloat16).contiguous() for name, one in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)  # the same as the embeddings
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
