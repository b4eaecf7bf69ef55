"""Models by name: cards, what ``--model`` stands for, other packages' models, and licences."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from asr_lightning.__main__ import main
from asr_lightning.adapters import cards, registry, saved
from asr_lightning.adapters.cards import CARDS, RECIPES, ModelCard
from asr_lightning.cli.arguments import with_model
from tests.tiny_hf import tiny_ctc, tiny_moonshine, tiny_transducer

CONFIGS = Path(__file__).parents[2] / "configs" / "models"
IN_CONFIGS = {
    "toy": "toy",
    "whisper": "whisper-tiny",
    "moonshine": "moonshine-tiny",
    "wav2vec2": "wav2vec2-base-960h",
    "parakeet_hf": "parakeet-tdt-0.6b-v3",
    "parakeet_tdt": "parakeet-tdt-0.6b-v2",
    "fastconformer_ctc": "fastconformer-ctc-large",
    "fastconformer_hybrid": "fastconformer-hybrid-large",
}


def test_names_are_unique_and_plain() -> None:
    names = [card.name for card in CARDS] + list(cards.ALIASES)
    assert len(names) == len(set(names)) >= 35
    assert all(name == name.lower() and "/" not in name and " " not in name for name in names)
    assert all(card.family in RECIPES for card in CARDS)
    assert set(cards.ALIASES.values()) <= {card.name for card in CARDS}


@pytest.mark.parametrize("adapter", sorted({card.adapter for card in CARDS}))
def test_every_adapter_exists(adapter: str) -> None:
    module, _, name = adapter.rpartition(".")
    assert all(callable(getattr(saved.class_named(module, name), verb)) for verb in saved.VERBS)


@pytest.mark.parametrize("config", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_configurations_hold_the_recipes(config: str) -> None:
    """One table of defaults: the files for people and the one that ``--model`` uses."""
    content = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
    assert_recipe(content, registry.choose(IN_CONFIGS[config]))


def test_demo_configuration_is_the_recipe_of_its_model() -> None:
    content = yaml.safe_load((CONFIGS.parent / "demo.yaml").read_text())
    del content["run_dir"], content["train_only"]  # the default, written out for readers
    assert_recipe(content, registry.choose("whisper-tiny.en"))


def assert_recipe(content: dict, choice: registry.Choice) -> None:
    """``content`` names the adapter and the source of ``choice``, and is its recipe otherwise."""
    adapter = content["model"].pop("adapter")
    content.get("data", {}).pop("audio_dir", None)
    init_args = adapter.get("init_args", {})
    assert adapter["class_path"] == choice.adapter
    assert init_args.pop("source", "toy") == choice.source
    recipe = {**choice.recipe, "model": dict(choice.recipe["model"])}
    wanted = recipe["model"].pop("adapter", {}).get("init_args", {})
    assert wanted.items() <= init_args.items()
    assert content == recipe


def test_a_name_is_written_out() -> None:
    arguments = ["fit", "--model.optimizer.lr", "1e-3", "--model", "parakeet-ctc-0.6b", "--run_dir", "runs/x"]
    command, option, recipe, *rest = with_model(arguments)
    assert (command, option) == ("fit", "--config")
    model = json.loads(recipe)["model"]
    assert model["optimizer"] == {"lr": 2e-5, "warmup": 0.02, "floor": 0.05}
    assert model["adapter"] == {"class_path": "asr_lightning.adapters.hf_ctc.HFCTCAdapter"}
    assert rest == [
        "--model.optimizer.lr",
        "1e-3",
        "--model.adapter.class_path=asr_lightning.adapters.hf_ctc.HFCTCAdapter",
        "--model.adapter.init_args.source=nvidia/parakeet-ctc-0.6b",
        "--run_dir",
        "runs/x",
    ]
    assert with_model(["fit", "--model=parakeet-ctc-0.6b"])[3:] == rest[2:4]


def test_other_arguments_are_left_alone() -> None:
    arguments = ["fit", "--config", "a.yaml", "--model.optimizer.lr=1"]
    assert with_model(arguments) == arguments


def test_options_override_the_recipe(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recipe, then configuration, then option; the named model replaces the configuration's."""
    file = tmp_path / "mine.yaml"
    file.write_text("model:\n  adapter: {class_path: asr_lightning.adapters.whisper.WhisperAdapter, init_args: "
                    "{source: x, language: de}}\ndata: {batch_size: 2}\n")  # fmt: skip
    options = ["--config", str(file), "--model", "toy", "--trainer.max_epochs", "3", "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", *options])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["adapter"]["class_path"].endswith("ToyAdapter")
    assert "language" not in config["model"]["adapter"]["init_args"]
    assert config["data"]["batch_size"] == 2 and config["trainer"]["max_epochs"] == 3
    assert config["model"]["optimizer"]["lr"] == 0.01 and config["train_only"]["batch_norm"] == "train"


@pytest.mark.parametrize(("name", "near"), [("moonshine_base", "moonshine-base"), ("wisper-tiny", "whisper-tiny")])
def test_an_unknown_name_gets_near_ones(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", name]) == 2
    printed = capsys.readouterr().err
    assert f"no model '{name}': did you mean" in printed and near in printed
    assert "python -m asr_lightning models" in printed and "Traceback" not in printed


def test_model_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model"]) == 2
    assert "--model needs a name" in capsys.readouterr().err


def test_a_hub_id_is_its_card() -> None:
    assert registry.choose("openai/whisper-base").recipe == registry.choose("whisper-base").recipe


def test_aliases() -> None:
    assert registry.choose("parakeet-tdt-0.6b").source == "nvidia/parakeet-tdt-0.6b-v3"


def test_a_folder_finds_its_adapter(tmp_path: Path) -> None:
    folders = {
        tiny_moonshine(tmp_path / "a", streaming=True): "MoonshineAdapter",
        tiny_ctc(tmp_path / "b", "wav2vec2"): "HFCTCAdapter",
        tiny_transducer(tmp_path / "c", "parakeet_tdt"): "HFTransducerAdapter",
    }
    for folder, adapter in folders.items():
        choice = registry.choose(str(folder))
        assert choice.adapter.endswith(adapter) and choice.source == str(folder)
        assert type(registry.build(str(folder))).__name__ == adapter
    (tmp_path / "m.nemo").touch()
    nemo = registry.choose(str(tmp_path / "m.nemo"))
    assert nemo.adapter.endswith("NeMoAdapter") and nemo.recipe == RECIPES["nemo"]
    with pytest.raises(
        ValueError, match=r"is no model folder: it holds neither asr_lightning.json nor config.json; give"
    ):
        registry.choose(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "like"),
    [
        ({"model_type": "whisper", "vocab_size": 51864, "d_model": 384}, "whisper-tiny.en"),
        ({"model_type": "whisper", "vocab_size": 51865, "d_model": 512}, "whisper-base"),
        ({"model_type": "whisper", "vocab_size": 51866, "d_model": 1280}, "whisper-large-v3"),
        ({"suppress_ids": [1], "lang_ids": [50259]}, "whisper-base"),  # as CTranslate2 writes it
        ({"suppress_ids": [1]}, "whisper-tiny.en"),
        ({"model_type": "moonshine"}, "moonshine-tiny"),
        ({"model_type": "hubert"}, "wav2vec2-base-960h"),
    ],
)
def test_a_folder_is_trained_like_a_named_model(config: dict, like: str, tmp_path: Path) -> None:
    """The recipe that was found for a family is that of its folders too."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    choice, named = registry.choose(str(tmp_path)), registry.choose(like)
    assert choice.recipe == named.recipe and choice.recipe
    assert choice.adapter == named.adapter


def test_a_saved_folder_of_another_package_has_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper", "vocab_size": 51864}))
    (tmp_path / saved.FILE_NAME).write_text(json.dumps({"adapter": "other.Adapter", "init_args": {}}))
    assert registry.choose(str(tmp_path)).recipe == {}


def test_a_saved_folder_keeps_its_adapter(tmp_path: Path) -> None:
    registry.build("toy").save(tmp_path)
    assert registry.choose(str(tmp_path)).adapter.endswith("ToyAdapter")
    assert registry.build(str(tmp_path)).source == str(tmp_path)


def test_licence_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The warning comes before training, for a model by its name or by its source."""
    registry.warn_of_licence("moonshine-ai/moonshine-tiny")
    registry.warn_of_licence("some/folder")
    assert not caplog.records
    for source in ("moonshine-ai/moonshine-tiny-ja", "facebook/mms-1b-all"):
        registry.warn_of_licence(source)
    assert "moonshine-tiny-ja is under the Moonshine AI Community License, which forbids some uses" in caplog.text
    assert "CC-BY-NC-4.0" in caplog.text


def test_merge_keeps_what_is_not_overridden() -> None:
    assert registry.merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}


MINE = ModelCard("mine", "toy", "asr_lightning.adapters.toy.ToyAdapter", "toy", 0.03, "MIT", "tones")
NO_CARD = "a string"


def test_another_package_adds_a_model(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Broken ones are named and left out; a name of ours stays ours."""
    points = [
        EntryPoint("mine", "tests.unit.test_registry:MINE", registry.GROUP),
        EntryPoint("whisper-tiny", "tests.unit.test_registry:MINE", registry.GROUP),
        EntryPoint("wrong", "tests.unit.test_registry:NO_CARD", registry.GROUP),
        EntryPoint("gone", "no_such_package:CARD", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    by_name = registry.cards()
    assert by_name["mine"] is MINE and by_name["whisper-tiny"].family == "whisper"
    assert (
        "the model wrong of tests.unit.test_registry:NO_CARD is left out: it is a str, not a ModelCard" in caplog.text
    )
    assert "the model gone of no_such_package:CARD is left out" in caplog.text
    assert "wrong" not in by_name and "gone" not in by_name


def test_models_prints_every_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for card in CARDS:
        (line,) = [line for line in printed.splitlines() if line.startswith(card.name + " ")]
        assert card.licence in line and ("extra nemo" in line) == (card.extra == "nemo")
    assert main(["models", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [card.name for card in CARDS]
    assert all(row["gb_to_train"] > row["gb_to_run"] for row in rows)


def test_memory_is_measured_or_estimated() -> None:
    measured = next(card for card in CARDS if card.train_gb)
    assert measured.gb_to_train == measured.train_gb
    assert ModelCard("m", "toy", "a", "s", 100, "MIT", "en").gb_to_train == pytest.approx(3.5)
    assert ModelCard("m", "toy", "a", "s", 100, "MIT", "en").gb_to_run == pytest.approx(0.4)


@pytest.mark.once
def test_the_server_trains_as_long_as_the_recipe() -> None:
    """The same model, by the command, the server and the cloud: one recipe."""
    from asr_lightning.server.http.fields import spec
    from asr_lightning.server.http.models import catalogue

    models = catalogue()
    for name in ("whisper-tiny.en", "moonshine-tiny", "wav2vec2-base-960h"):
        recipe = registry.choose(name).recipe["trainer"]["max_epochs"]
        assert spec({"model": name}, models).epochs == registry.epochs_of(name, 1) == recipe
    assert spec({"model": "whisper-tiny.en", "epochs": 3}, models).epochs == 3
