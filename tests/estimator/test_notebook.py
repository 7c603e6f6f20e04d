"""What notebooks show of a network."""

import re

import pytest
from helpers import ROOT, make_network, make_table
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
needs_recent = pytest.mark.skipif(
    not hasattr(BaseEstimator, "_get_fitted_attr_html"), reason="scikit-learn shows it from 1.9 on"
)
X, y = make_table(60, 3)


def test_there_are_no_links_as_long_as_the_site_has_no_address():
    assert make_network()._get_doc_link() == ""
    assert "scratchnn." not in "".join(re.findall(r'href="[^"]*"', make_network()._repr_html_()))
    assert "[project.urls]" not in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("inside", [False, True])
def test_a_fitted_network_says_its_layers_and_epochs(inside):
    model = make_network(numeric_encoding=None)
    model = make_pipeline(StandardScaler(), model) if inside else model
    assert '<div class="caption">' not in model._repr_html_()
    assert '<div class="caption">layers 3-5-1, 3 epochs</div>' in model.fit(X, y)._repr_html_()


def test_epochs_of_all_calls_count():
    model = make_network(numeric_encoding=None).partial_fit(X, y, classes=[0, 1])
    assert "layers 3-5-1, 1 epoch<" in model._repr_html_()
    assert "layers 3-5-1, 2 epochs<" in model.partial_fit(X, y)._repr_html_()


@needs_recent
def test_fitted_attributes_are_shown_if_they_are_there():
    html = make_network().fit(X, y)._repr_html_()
    for name in ("coefs_", "mean_", "scale_", "loss_curve_"):
        assert re.search(rf">\s*{name}\s*<", html), name
    assert not re.search(r">\s*coef_\s*<", html)  # only networks without hidden layer have it
    assert "property object" not in html
    assert re.search(r">\s*coef_\s*<", make_network().set_params(hidden_layer_sizes=()).fit(X, y)._repr_html_())


def test_coefficients_that_were_set_need_no_curve():
    model = make_network().fit(X, y)
    del model.loss_curve_
    assert "ScratchNNClassifier" in model._repr_html_()
