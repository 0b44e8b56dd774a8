"""What a release and a stranger's change depend on: versions, constraints, the workflow."""

import re
import runpy

import cl
from tests.conftest import ROOT

WORKFLOW = (ROOT / ".github/workflows/checks.yml").read_text()


def test_every_file_that_names_the_version_names_that_of_the_package() -> None:
    release = runpy.run_path(str(ROOT / ".ci/check_release.py"))
    assert set(release["versions_named"]().values()) == {cl.__version__}
    refused = release["problems"]("9.9.9")
    for file in ("cl/__init__.py", "CITATION.cff", "CHANGELOG.md", "README.md"):
        assert f"{file}: got {cl.__version__}, expected 9.9.9" in refused


def test_the_constraints_are_those_of_the_requirements() -> None:
    """`python .ci/write_constraints.py` writes both files anew."""
    constraints = runpy.run_path(str(ROOT / ".ci/write_constraints.py"))
    oldest = (ROOT / ".ci/oldest.txt").read_text().splitlines()[1:]
    assert oldest == constraints["oldest"]()
    held = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:])
    for requirement in constraints["requirements"]("requirements.txt"):
        assert requirement.specifier.contains(held[requirement.name.lower()]), requirement


def test_the_workflow_and_pre_commit_call_the_scripts_that_everybody_runs() -> None:
    assert "- run: bash .ci/run" in WORKFLOW
    assert re.findall(r"versions: (\w+)", WORKFLOW) == ["oldest", "newest"]
    assert "constraints: .ci/oldest.txt" in WORKFLOW
    oldest_python = re.search(r'requires-python = ">=(3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest_python
    assert f'python: "{oldest_python[1]}"' in WORKFLOW
    for script in (".ci/run", ".pre-commit-config.yaml"):
        assert "bash .ci/lint" in (ROOT / script).read_text()
