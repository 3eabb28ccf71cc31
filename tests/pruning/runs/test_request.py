"""A run is described once: checked when it is made, and the same after JSON and TOML."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.files.toml_text import toml_text
from pruning.methods.edge_pruning.recipes import OBJECTIVE_NAMES, RECIPES, Recipe, recipe_named
from pruning.runs.choice_files import read_recipe_file, read_run_file
from pruning.runs.choices import full_name, of_keywords, read_settings, setting_kinds
from pruning.runs.decide import decide, run_text
from pruning.runs.request import MethodRequest, ModelRequest, RunRequest, SelectionRequest, TaskRequest
from pruning.runs.settings import RunSettings
from pruning.whole_numbers import whole_number

REQUEST = RunRequest(
    model=ModelRequest(name="tracr:reverse", embeddings="split"),
    task=TaskRequest(name="tracr-reverse", options={"max_length": 4}, sizes={"train": 8}, seed=5),
    recipe=recipe_named("tracr").changed(steps=50, ablation="mean"),
    objective="kl",
    ablation="zero",
    splits=("test",),
    n_random_prompts=None,
)
NAMED = {"model.name": "m", "task.name": "ioi"}
TEXTS = st.text(max_size=12)
PLAIN = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXTS
TABLES = st.recursive(
    st.dictionaries(TEXTS, PLAIN | st.lists(PLAIN, max_size=3), max_size=4),
    lambda inside: st.dictionaries(TEXTS, PLAIN | inside, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(TABLES)
def test_toml_is_read_as_it_was_written(table):
    assert tomllib.loads(toml_text(table)) == table


SETTINGS = st.fixed_dictionaries(
    {
        "device": st.sampled_from(["cpu", "cuda:1"]),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "verify": st.booleans(),
        "memory_bytes": st.none() | st.integers(0, 2**40),
        "cache_bytes": st.integers(0, 2**40),
        "disk_cache_folder": st.none() | TEXTS,
        "micro_batch": st.none() | st.integers(1, 64),
        "recompute": st.none() | st.booleans(),
    }
)
TASKS = st.fixed_dictionaries(
    {
        "name": TEXTS,
        "options": st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=2),
        "sizes": st.dictionaries(st.sampled_from(["train", "test"]), st.integers(0, 99)),
        "seed": st.integers(0, 2**31),
        "bos": st.sampled_from(["auto", "yes", "no"]),
    }
)
CHANGES = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 9999),
        "summary": TEXTS,
        "learning_rate": st.floats(1e-9, 10),
        "ablation": st.sampled_from([None, "mean"]),
        "embeddings": st.sampled_from([None, "split"]),
    }
)
ASKED = st.fixed_dictionaries(
    {
        "objective": st.sampled_from(OBJECTIVE_NAMES),
        "ablation": st.sampled_from(["zero", "counterfactual"]),
        "seed": st.integers(0, 2**31),
        "splits": st.none() | st.lists(st.sampled_from(["test", "validation"]), unique=True).map(tuple),
        "n_random_prompts": st.none() | st.integers(1, 99),
        "teacher_top_k": st.none() | st.integers(1, 99),
    }
)


@settings(deadline=None)
@given(
    asked=ASKED, model=TEXTS, task=TASKS, changes=CHANGES, recipe=st.sampled_from(sorted(RECIPES)), how=SETTINGS
)  # fmt: skip
def test_a_run_is_the_same_after_json_and_toml(tmp_path_factory, asked, model, task, changes, recipe, how):
    request = RunRequest(
        model=ModelRequest(name=model), task=TaskRequest(**task), recipe=replace(RECIPES[recipe], **changes), **asked
    )
    done = RunSettings(**how)
    assert RunRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    assert RunSettings.from_dict(json.loads(json.dumps(done.to_dict()))) == done
    file = tmp_path_factory.mktemp("runs") / "run.toml"
    file.write_text(run_text(request, done), encoding="utf-8")
    assert decide(read_run_file(file), family="other", objective="mse") == (request, done)


def test_a_run_reads_as_one_would_write_it():
    assert run_text(REQUEST, RunSettings()).startswith(
        'direction = "noising"\nobjective = "kl"\nablation = "zero"\nseed = 0\nsplits = ["test"]\nn_random = 10\n'
        'n_random_prompts = "all"\nn_effects = 150\n\n[model]\nname = "tracr:reverse"\nembeddings = "split"\n'
    )


VALUES = {"bool": "true", "int": "7", "float": "0.25", "str": "abc", "tuple": "test,train"}
NEEDED = {"recipe.target_sparsity": "0.5", "recipe.writer_target": "0.5", "recipe.sharpen": "2", "front": "0.9,0.99"}


@pytest.mark.parametrize("name", setting_kinds())
def test_set_reaches_every_setting(name):
    kind = setting_kinds()[name]
    if kind.base is dict:
        chosen = read_settings([f"{name}.train=7"])
        assert chosen == {f"{name}.train": 7 if name == "task.sizes" else "7"}
        return
    text = kind.names[-1] if kind.names else NEEDED.get(name, VALUES[kind.base.__name__])
    text = {"recipe.settle_steps": "7", "recipe.start_sparsity": "0.25"}.get(name, text)
    if name.startswith("recipe.") and kind.base is str and name not in ("recipe.name", "recipe.summary"):
        text = {"ramp": "logarithmic", "control": "budget", "keep": "minimal", "warm_start": "gate-importance"}.get(
            name.removeprefix("recipe."), {"objective": "mse", "ablation": "mean", "kv_heads": "per_query"}.get(
                name.removeprefix("recipe."), "split"
            )
        )  # fmt: skip
    recipes = {"recipe.sharpen": "quick", "recipe.price": "continuous"}
    base = {"recipe": recipes.get(name, "paper-gpt2"), **NAMED}
    if name == "recipe.control":
        base |= {"recipe.target_sparsity": 0.9}
    if name == "survivors_by":
        text, base = "eap", {"survivors": 9, **base}
    if name.startswith(("method.", "selection.")):
        rule = {"selection.threshold": "threshold", "selection.time_limit": "connected"}.get(name, "top")
        base = {"method.name": "eap", "selection.rule": rule, **NAMED}
    request, done = decide({**base, **read_settings([f"{name}={text}"])}, family="gpt2", objective="kl")
    value = {**request.to_dict(), "settings": done.to_dict()}
    for part in name.split("."):
        value = value[part]
    assert value == kind.read(name, text) or value == list(kind.read(name, text))
    assert str(value).lower() in (text, "['test', 'train']", "[0.9, 0.99]", "7.0", "0.5", "2.0")


def test_names_cover_every_field():
    tables = (RunRequest, ModelRequest, TaskRequest, Recipe, MethodRequest, SelectionRequest, RunSettings)
    every = {one.name for cls in tables for one in fields(cls)}
    assert {name.rpartition(".")[2] for name in setting_kinds()} == every - {
        "model", "task", "recipe", "method", "selection",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("stepps=3", UnknownNameError, "unknown setting 'stepps'; did you mean 'steps'"),
        ("recipe.stps=3", UnknownNameError, "did you mean 'recipe.steps'"),
        ("qkv=joint", ConfigurationError, "may be model.qkv or recipe.qkv; say which"),
        ("steps", ConfigurationError, "expected NAME=VALUE, such as steps=300; got 'steps'"),
        ("steps=many", ConfigurationError, "recipe.steps must be a whole number of at least 0; got 'many'"),
        ("learning_rate=fast", ConfigurationError, "recipe.learning_rate must be a number; got 'fast'"),
        ("learning_rate=nan", ConfigurationError, "recipe.learning_rate must be a number"),
        ("verify=perhaps", ConfigurationError, "settings.verify must be true or false; got 'perhaps'"),
        ("micro_batch=0", ConfigurationError, "settings.micro_batch must be a whole number of at least 1; got 0"),
        ("dtype=float23", UnknownNameError, "unknown dtype 'float23'; did you mean 'float32'"),
        ("objective=kll", UnknownNameError, "unknown objective 'kll'"),
        ("recipe=quik", UnknownNameError, "unknown recipe 'quik'; did you mean 'quick'"),
        ("task.sizes.train=-1", ConfigurationError, "task.sizes.train must be a whole number of at least 0; got -1"),
        ("task.options=3", ConfigurationError, "task.options is a table; set what is in it"),
        ("cache_bytes=1 GB", ConfigurationError, "settings.cache_bytes must be a number of bytes"),
    ],
)
def test_what_set_cannot_do_is_said(text, error, said):
    with pytest.raises(error) as raised:
        read_settings([text])
    assert said in str(raised.value)


def test_what_was_chosen_wins_over_recipe_task_and_model():
    def of(family="gpt2", **chosen):
        named = {name.replace("__", "."): value for name, value in chosen.items()}
        request, _ = decide({**NAMED, **named}, family=family, objective="logit-diff")
        return request

    assert (of().recipe.name, of().objective, of().ablation) == ("quick", "logit-diff", "counterfactual")
    assert (of().model.embeddings, of(family="tracr").model.embeddings) == ("joint", "split")
    assert (of(family="tracr").recipe.name, of(family="tracr").ablation) == ("tracr", "zero")
    assert of(family="tracr", recipe="quick").ablation == "zero"
    assert of(recipe="tracr").ablation == "zero"
    assert of(recipe="tracr").model.embeddings == "split"
    assert of(recipe="tracr", model__embeddings="joint", ablation="mean").model.embeddings == "joint"
    assert of(recipe="paper-tracr-xproportion").objective == "position-kl"
    assert of(recipe="paper-tracr-xproportion", objective="mse").objective == "mse"
    assert of(recipe="tracr", recipe__ablation=None).ablation == "counterfactual"
    assert (of(seed=4).task.seed, of(seed=4, task__seed=2).task.seed) == (4, 2)
    assert of(recipe__steps=200).recipe.ramp_steps == 125  # scaled with the steps, as `Recipe.changed` does


class TestFiles:
    def read(self, tmp_path, text, read=read_recipe_file):
        file = tmp_path / "file.toml"
        file.write_text(text, encoding="utf-8")
        return read(file)

    def test_a_recipe_on_top_of_another(self, tmp_path):
        chosen = self.read(tmp_path, 'base = "paper-gpt2"\nname = "mine"\nsteps = 300\nlearning_rate = 1\n')
        request, _ = decide({**NAMED, **chosen}, family="gpt2", objective="kl")
        assert request.recipe == recipe_named("paper-gpt2").changed(name="mine", steps=300, learning_rate=1.0)

    def test_a_recipe_without_base_changes_the_runs_own(self, tmp_path):
        chosen = self.read(tmp_path, "steps = 100\n")
        assert chosen == {"recipe.steps": 100}

    def test_a_whole_recipe(self, tmp_path):
        whole = recipe_named("tracr")
        chosen = self.read(tmp_path, toml_text(whole.to_dict()))
        assert chosen == {"recipe": whole}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('name = "mine"\nsteps = 3', "file.toml: recipe 'mine' lacks ramp_steps, warmup_steps, learning_rate"),
            ("stps = 3", "file.toml: unknown recipe setting 'stps'; did you mean 'steps'"),
            ('base = "quik"', "file.toml: unknown recipe 'quik'"),
            ("base = 3", "file.toml: base must be a recipe's name; got 3"),
            ('steps = "3"', "file.toml: recipe.steps must be a whole number of at least 0; got '3'"),
            ("steps = ", "file.toml is no TOML"),
        ],
    )
    def test_what_is_wrong_in_a_recipe_is_said_with_its_file(self, tmp_path, text, said):
        with pytest.raises((ConfigurationError, UnknownNameError)) as raised:
            self.read(tmp_path, text)
        assert said in str(raised.value)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("sede = 3", "unknown run setting 'sede'; did you mean 'seed'"),
            ("[modle]", "unknown run setting 'modle'; did you mean 'model'"),
            ("[settings]\ndevise = 'cpu'", "unknown settings setting 'devise'; did you mean 'device'"),
            ("model = 'x'", "model must be a table; got 'x'"),
        ],
    )
    def test_what_is_wrong_in_a_run_is_said(self, tmp_path, text, said):
        with pytest.raises((ConfigurationError, UnknownNameError)) as raised:
            self.read(tmp_path, text, read_run_file)
        assert said in str(raised.value)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ConfigurationError, match=r"run\.toml cannot be read: No such file"):
            read_run_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("n_random", -1),
        ("n_random", True),
        ("n_random_prompts", 0),
        ("n_effects", -1),
        ("teacher_top_k", 0),
    ],
)
def test_numbers_that_make_no_sense_are_named(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} must be a whole number of at least"):
        replace(REQUEST, **{name: value})


@pytest.mark.parametrize(("name", "value"), [("cache_bytes", -1), ("micro_batch", 0)])
def test_so_are_those_of_how_a_run_is_done(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} must be a whole number of at least"):
        RunSettings(**{name: value})


def test_pythons_keywords_are_checked_by_name_and_type():
    assert of_keywords({"seed": np.int64(3), "steps": 20, "micro_batch": 2}) == {
        "seed": 3, "recipe.steps": 20, "settings.micro_batch": 2,
    }  # fmt: skip
    assert type(of_keywords({"seed": np.int64(3)})["seed"]) is int
    with pytest.raises(UnknownNameError, match="unknown setting 'sed'; did you mean 'seed'"):
        of_keywords({"sed": 3})
    with pytest.raises(ConfigurationError, match="seed must be a whole number of at least 0; got 0.5"):
        of_keywords({"seed": 0.5})
    with pytest.raises(ConfigurationError, match=r"splits must be several names; got 'test'. For one, pass \['test'\]"):
        of_keywords({"splits": "test"})
    assert full_name("device") == "settings.device"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": "3"}, "seed must be a whole number of at least 0; got '3'"),
        ({"sed": 3}, "unknown setting of a run 'sed'; did you mean 'seed'"),
        ({"model": {"qkv": "split"}}, "the description of a run lacks model.name"),
        ({"model": "gpt2"}, "expected a table of model settings; got 'gpt2'"),
        ({"task": {"name": "ioi", "sizes": {"tests": 3}}}, "task.sizes has 'tests'; expected train, validation, test"),
        ({"recipe": {"name": "quick"}}, "the description of a run lacks recipe.steps, recipe.ramp_steps"),
    ],
)
def test_a_damaged_description_is_refused(change, said):
    with pytest.raises((ConfigurationError, UnknownNameError)) as raised:
        RunRequest.from_dict({**REQUEST.to_dict(), **change})
    assert said in str(raised.value)


@pytest.mark.parametrize("value", [0.5, "1", None, np.nan, np.float64(2), [1]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="seed must be a whole number of at least 0; got"):
        whole_number("seed", value)


def test_numpys_integers_become_pythons() -> None:
    assert json.dumps([whole_number("seed", np.int64(3)), whole_number("lanes", np.uint8(2))]) == "[3, 2]"
