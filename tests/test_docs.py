"""What is documented is what is there."""

import importlib
import inspect
import json
import pkgutil
import pydoc
import re
import zlib

import pytest
from helpers import ROOT, load_script
from numpydoc.docscrape import FunctionDoc, NumpyDocString
from numpydoc.validate import validate

import scratchnn
from scratchnn import ScratchNNClassifier, batch, losses, network, training

TRAINING = [
    importlib.import_module(f"scratchnn.training.{each.name}") for each in pkgutil.iter_modules(training.__path__)
]
METHODS = ["fit", "partial_fit", "predict", "predict_proba", "predict_log_proba", "decision_function", "from_recipe"]


def public_members(module):
    return [
        member
        for name, member in vars(module).items()
        if not name.startswith("_")
        and getattr(member, "__module__", None) == module.__name__
        and (inspect.isclass(member) or inspect.isfunction(member))
    ]


@pytest.mark.parametrize("module", [scratchnn, network, losses, training, *TRAINING])
def test_everything_public_has_a_docstring(module):
    assert module.__doc__
    for member in public_members(module):
        assert member.__doc__, member
        assert not member.__doc__.startswith(f"{member.__name__}("), f"{member} has only a dataclass's signature"


def test_public_names_are_sorted_and_there():
    assert scratchnn.__all__ == sorted(scratchnn.__all__)
    assert all(hasattr(scratchnn, name) for name in scratchnn.__all__)


LEFT_OUT = {
    "ES01",
    "EX01",
    "SA01",
    "RT02",
    "RT03",
}  # an extended summary, examples, See Also; "self : class" says it all
SHORT = {"PR01", "RT01"}  # one line, where the signature says the rest


def list_public():
    """Return the names of public objects, with the faults of numpydoc that do not count."""
    objects = {"scratchnn.fusion.FusionReport": SHORT, "scratchnn.fusion.TrainedStack": SHORT}
    objects |= {"scratchnn.fusion.FusionReport.to_frame": set()}
    for module in (network, losses, batch):
        objects |= {f"{module.__name__}.{member.__name__}": SHORT for member in public_members(module)}
    for name in scratchnn.__all__:
        objects[f"scratchnn.{name}"] = set()
        member = getattr(scratchnn, name)
        for key in vars(member) if inspect.isclass(member) else ():
            # scikit-learn makes set_fit_request and the like.
            is_own = not key.startswith("_") and not key.endswith("_request")
            if is_own and callable(getattr(member, key, None)):
                objects[f"scratchnn.{name}.{key}"] = SHORT if name == "Checkpoint" else set()  # scikit-learn's hooks
    return objects


OBJECTS = list_public()


@pytest.mark.parametrize("name", OBJECTS)
def test_numpydoc_finds_no_fault(name):
    errors = [error for error in validate(name)["errors"] if error[0] not in LEFT_OUT | OBJECTS[name]]
    assert errors == []


@pytest.mark.parametrize("name", OBJECTS)
def test_documented_defaults_are_those_of_the_signature(name):
    public = pydoc.locate(name)
    parameters = inspect.signature(public).parameters
    for entry in NumpyDocString(inspect.getdoc(public))["Parameters"]:
        for key in entry.name.replace("**", "").split(", ") if entry.type else []:
            _, is_documented, default = entry.type.partition("default=")
            expected = eval(default, {}) if is_documented else inspect.Parameter.empty
            assert parameters[key].default == expected, key


def test_every_parameter_of_the_constructor_is_documented_in_its_order():
    documented = NumpyDocString(inspect.cleandoc(ScratchNNClassifier.__doc__))["Parameters"]
    assert [entry.name for entry in documented] == list(inspect.signature(ScratchNNClassifier).parameters)


@pytest.mark.parametrize("name", METHODS)
def test_documented_parameters_of_methods_are_theirs(name):
    method = getattr(ScratchNNClassifier, name)
    documentation = FunctionDoc(method)
    names = [name for entry in documentation["Parameters"] for name in entry.name.replace("**", "").split(", ")]
    assert names == [name for name in inspect.signature(method).parameters if name != "self"]
    assert documentation["Returns"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_documented_attributes_are_there_after_fit(iris):
    documented = {
        name
        for entry in NumpyDocString(inspect.cleandoc(ScratchNNClassifier.__doc__))["Attributes"]
        for name in entry.name.split(", ")
    }
    classifier = ScratchNNClassifier((), max_iter=1).fit(*iris)
    there = {name for name in vars(classifier) if name.endswith("_") and not name.startswith("_")}
    assert documented == there | {"coef_", "intercept_", "feature_names_in_", "feature_names_encoded_"}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_readme_code_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    X_test, y_test = namespace["X_test"], namespace["y_test"]
    assert namespace["search"].score(X_test, y_test) > namespace["model"].score(X_test, y_test) > 0.85
    assert capsys.readouterr().out


def test_the_text_of_the_readme_on_quality_agrees_with_its_table():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"(?m)^\| (\w+) \| \**([\d.]+)\** \| \**([\d.]+)\** \| [\d.]+ s \|$", text)
    by_loss = [model for model, *_ in sorted(rows, key=lambda row: row[1])]
    by_accuracy = [model for model, *_ in sorted(rows, key=lambda row: row[2], reverse=True)]
    assert "MLPClassifier has the lowest log loss here, and RealMLP the highest accuracy" in text
    assert (by_loss[0], by_accuracy[0]) == ("MLPClassifier", "RealMLP")
    assert "scratchnn is third in log loss, like RealMLP, and\nfifth in accuracy" in text
    assert (set(by_loss[2:4]), by_accuracy[4]) == ({"RealMLP", "ScratchNNClassifier"}, "ScratchNNClassifier")


def test_only_hastie_puts_another_network_ahead():
    tables = json.loads((ROOT / "docs" / "_figures" / "quality.json").read_text())["tables"]
    rows = {row["model"]: row for row in tables["Log loss on tables that played no part in choosing the defaults"]}
    ours, other = (
        sum(float(rows[model][name]) for name in ("PSID1976", "penguins", "Arrests", "moons"))
        for model in ("ScratchNNClassifier", "MLPClassifier")
    )
    comparison = (ROOT / "docs" / "guide" / "comparison.rst").read_text()
    assert "MLPClassifier has the lowest mean, owing to hastie: on the other four tables, scratchnn's" in comparison
    assert ours < other


def test_each_example_shows_or_saves_its_figure():
    texts = {path.name: path.read_text() for path in (ROOT / "examples").rglob("plot_*.py")}
    assert len(texts) >= 14
    assert [name for name, text in texts.items() if "plt.show()" not in text and "savefig(" not in text] == []


def test_pages_of_the_guide_and_the_readme_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "docs" / "guide").glob("*.rst")}
    assert {name: length for name, length in lengths.items() if length > 200} == {}
    assert len((ROOT / "README.md").read_text().splitlines()) < 110


def test_the_inventory_of_scikit_learn_is_up_to_date():
    stored = (ROOT / "docs" / "_inventories" / "sklearn.inv").read_bytes()
    made = load_script("docs/_inventories/make.py").make_inventory()
    was, is_now = (zlib.decompress(each.split(b"zlib.\n")[1]) for each in (stored, made))
    assert was == is_now, "run docs/_inventories/make.py"


def test_every_parameter_is_in_the_table_of_migrating():
    table = (ROOT / "docs" / "guide" / "migrating.rst").read_text().split(".. list-table::")[1]
    missing = [name for name in inspect.signature(ScratchNNClassifier).parameters if f"``{name}" not in table]
    assert not missing


def test_fragments_have_a_type_of_the_changelog():
    fragments = list((ROOT / "docs" / "changes").iterdir())
    assert fragments
    assert all(re.fullmatch(r"\+?[\w-]+\.(feature|change|fix|doc)\.rst", path.name) for path in fragments)


def test_versions_agree():
    assert f"\nversion: {scratchnn.__version__}\n" in (ROOT / "CITATION.cff").read_text()
