"""Resolves ``--model NAME``, for models of this package and of others. Imports nothing heavy.

Another package adds its models through the entry point group ``asr_lightning.models``: the name of an entry is that of
the model, and its object is a ``ModelCard``.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NamedTuple

from asr_lightning.adapters import model_files, saved
from asr_lightning.adapters.cards import (
    ADAPTERS,
    ALIASES,
    CARDS,
    CAREFUL,
    ENGLISH_END,
    MULTILINGUAL_VOCABULARY,
    RECIPES,
    ModelCard,
    Recipe,
)
from asr_lightning.errors import ModelError, OptionError

logger = logging.getLogger(__name__)

GROUP = "asr_lightning.models"


class Kind(NamedTuple):
    """A kind of Hugging Face folder: the class path of the adapter that reads it, and the family with its recipe."""

    adapter: str
    family: str


KINDS = {
    "whisper": Kind(f"{ADAPTERS}.whisper.WhisperAdapter", "whisper"),
    "moonshine": Kind(f"{ADAPTERS}.moonshine.MoonshineAdapter", "moonshine.en"),
    "moonshine_streaming": Kind(f"{ADAPTERS}.moonshine.MoonshineAdapter", "moonshine.en"),
    "parakeet_ctc": Kind(f"{ADAPTERS}.hf_ctc.HFCTCAdapter", "parakeet"),
    "parakeet_rnnt": Kind(f"{ADAPTERS}.hf_transducer.HFTransducerAdapter", "parakeet"),
    "parakeet_tdt": Kind(f"{ADAPTERS}.hf_transducer.HFTransducerAdapter", "parakeet"),
}
CTC = Kind(f"{ADAPTERS}.hf_ctc.HFCTCAdapter", "wav2vec2")
"""Kind of a folder by its ``model_type``; every other folder is taken for a CTC model. A Moonshine folder does not say
its language: most are English, as is the replay of the recipe, and others are trained with ``--data.replay off``."""

MEDIUM_WIDTH = 1024
"""``d_model`` of Whisper medium. Source: the configurations on the hub."""


class Choice(NamedTuple):
    """The adapter, the source and the recipe that a name or a path stands for.

    Attributes:
        adapter: Class path of the adapter.
        source: First argument of the adapter.
        recipe: Options of ``fit``.
        family: Family that the recipe belongs to; empty if there is no recipe.
    """

    adapter: str
    source: str
    recipe: Recipe
    family: str = ""


def cards() -> dict[str, ModelCard]:
    """Return the card of every model by its name; a package that cannot be read is left out, with a warning."""
    by_name = {card.name: card for card in CARDS}
    for point in entry_points(group=GROUP):
        card = _load(point)
        if card is not None:
            by_name.setdefault(point.name, card)
    return by_name


def _load(point: EntryPoint) -> ModelCard | None:
    try:
        card = point.load()
        if not isinstance(card, ModelCard):
            raise TypeError(f"it is a {type(card).__name__}, not a ModelCard")
    except Exception as error:  # this is another package's code, whose errors must not stop ours
        logger.warning("the model %s of %s is left out: %s", point.name, point.value, error)
        return None
    return card


def card_of(name: str) -> ModelCard | None:
    """Return the card of the model that is called ``name`` or whose source is ``name``; None if there is none."""
    known = cards()
    name = ALIASES.get(name, name)
    return known.get(name) or next((card for card in known.values() if card.source == name), None)


def language(source: str, chosen: str | None) -> str | None:
    """Return the language that a model reads.

    It is the one that the user has ``chosen``, or that the folder ``source`` was saved with, or the only one on the
    model's card; None if none of them names one.
    """
    card = card_of(model_files.base_of(source) or source)
    only = card.languages if card and len(card.languages) == 2 and card.languages.isalpha() else None
    recorded = saved.recorded_options(source, ["language"]).get("language")
    return chosen or (str(recorded) if recorded else only)


def choose(name: str) -> Choice:
    """Resolve ``name``, which is a model's name, its hub id, a folder or a ``.nemo`` file.

    Raises:
        ModelError: It is none of them; the message lists similar names.
    """
    card = card_of(name)
    if card is not None:
        recipe = merge(RECIPES.get(card.family, {}), card.recipe)
        return Choice(card.adapter, card.source, recipe, card.family if recipe else "")
    path = Path(name).expanduser()
    if path.exists():
        return _choose_path(path)
    near = get_close_matches(name, [*cards(), *ALIASES], n=3, cutoff=0.4)
    raise ModelError(
        f"no model {name!r}: {'did you mean ' + ', '.join(near) + '? ' if near else ''}python -m asr_lightning models "
        "lists all; for another checkpoint give its folder, or --model.adapter.class_path and its source"
    )


def _choose_path(path: Path) -> Choice:
    """Resolve a folder or file to the adapter that wrote it or that reads its kind, and the recipe of its family."""
    if path.suffix == ".nemo":
        return Choice(f"{ADAPTERS}.nemo.NeMoAdapter", str(path), RECIPES["nemo"], "nemo")
    if path.is_file():
        raise ModelError(
            f"{path} is a file, and of these only .nemo files are models: give a folder with config.json, as Hugging "
            "Face and faster-whisper write it; OpenAI's .pt and whisper.cpp's .bin must be converted first"
        )
    base = model_files.base_of(path)
    if base is not None:
        return _choose_base(path, base)
    recorded, config = saved.record(path), path / "config.json"
    if recorded is None and not config.is_file():
        of_run = path / "model"
        run = f"that of this run, {of_run}" if of_run.is_dir() else "that of a finished run, such as runs/demo/model"
        raise ModelError(
            f"{path} is no model folder: it holds neither {saved.FILE_NAME} nor config.json; give {run}, or a Hugging "
            "Face folder"
        )
    settings = model_files.read_object(config) if config.is_file() else {}
    kind = KINDS.get(settings.get("model_type", "whisper"), CTC)  # CTranslate2 writes no model_type
    adapter = kind.adapter if recorded is None else recorded.adapter
    if adapter != kind.adapter or not config.is_file():
        return Choice(adapter, str(path), {})
    family = _family_of(kind, settings)
    careful = CAREFUL if kind.family == "whisper" and settings.get("d_model", 0) >= MEDIUM_WIDTH else {}
    return Choice(adapter, str(path), merge(RECIPES[family], careful), family)


def _choose_base(path: Path, base: str) -> Choice:
    """Resolve the folder of an adapter of peft to what reads its ``base``; the adapter is merged when it is loaded."""
    try:
        choice = choose(base)
    except ModelError as error:
        # The folder of the machine that trained the adapter is often named; no hub has it.
        is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", base)
        fetch = f"run `hf download {base} --local-dir FOLDER`" if is_hub_id else "copy that model to a FOLDER here"
        raise ModelError(
            f"{path} is an adapter for {base}, which is no folder here and no model that is known by name: {fetch}, "
            f"and write FOLDER as base_model_name_or_path into {path / 'adapter_config.json'}"
        ) from error
    return choice._replace(source=str(path))


def _family_of(kind: Kind, config: dict[str, Any]) -> str:
    """Return the family of the named models that are of the same kind as a folder with ``config``."""
    if kind.family != "whisper":
        return kind.family
    if "vocab_size" not in config:  # CTranslate2's
        return "whisper" if "lang_ids" in config else "whisper.en"
    is_resized = config["vocab_size"] > MULTILINGUAL_VOCABULARY + 1  # that of large-v3 has one token more
    is_english = config["vocab_size"] < MULTILINGUAL_VOCABULARY or (
        is_resized and config.get("eos_token_id") == ENGLISH_END
    )
    return "whisper.en" if is_english else "whisper"


def tell_recipe(name: str, choice: Choice) -> None:
    """Log which family's recipe a run of ``name`` follows."""
    if choice.family:
        logger.info("%s: the recipe of %s", name, choice.family)
    else:
        logger.info("%s: no recipe is known for this model, so the defaults of fit apply", name)


def epochs_of(name: str, default: int) -> int:
    """Return the number of epochs in the recipe of ``name``; ``default`` if the recipe does not say.

    Raises:
        ValueError: There is no such model.
    """
    return int(choose(name).recipe.get("trainer", {}).get("max_epochs", default))


def require_options(name: str, adapter: Any, options: Iterable[str]) -> None:
    """Refuse ``options`` that the class ``adapter`` of the model ``name`` does not have.

    Raises:
        OptionError: It does not have one of them.
    """
    if unknown := [option for option in options if option not in inspect.signature(adapter).parameters]:
        raise OptionError(f"{name} takes no {' and no '.join(unknown)}: leave out --{unknown[0]}", unknown[0])


def build(name: str, **options: Any) -> Any:
    """Load the adapter of ``name``; a folder that ``save`` wrote is loaded with the options it was saved with.

    Args:
        name: A model's name, its hub id, a folder or a ``.nemo`` file.
        options: Options of the adapter, which override those.

    Raises:
        ValueError: There is no such model, it cannot be loaded, or it does not have one of ``options``.
    """
    choice = choose(name)
    kind = saved.adapter_named(choice.adapter, choice.source)
    require_options(name, kind, options)
    if saved.record(choice.source) is not None:
        return saved.load(choice.source, **options)
    return kind(choice.source, **options)


def warn_of_licence(source: str) -> None:
    """Warn, before training, if the licence of a model forbids some uses."""
    card = card_of(source)
    if card is not None and card.restricted:
        logger.warning(
            "%s is under the %s, which forbids some uses, commercial ones above all; what you train from it is bound "
            "by it as well. Read it before you pass anything on", card.name, card.licence,
        )  # fmt: skip


def merge(base: Recipe, over: Recipe) -> dict[str, Any]:
    """Return ``base`` with the entries of ``over`` merged into it, level by level."""
    return {
        key: merge(_mapping(base.get(key)), value) if isinstance(value, Mapping) else value
        for key, value in {**base, **over}.items()
    }


def _mapping(value: Any) -> Recipe:
    return value if isinstance(value, Mapping) else {}
