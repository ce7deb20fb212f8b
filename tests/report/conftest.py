"""One real run for all tests of the report."""

import shutil

import pytest
from report.bench import make_results


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A results directory; not to be changed."""
    return make_results(tmp_path_factory.mktemp("report") / "line-run", scenes=20)


@pytest.fixture
def results_copy(finished_run, tmp_path):
    """A copy of the results directory, to be broken."""
    return shutil.copytree(finished_run, tmp_path / "run")
