"""What docs/adding-a-method.md shows is what the code wants."""

import re
from pathlib import Path

import pytest
import yaml
from matrices import mlp_matrices
from test_resume import RUNS

from fnsft.config.stages import FRACTION_METHODS
from fnsft.masks.masker import GradientMasker


@pytest.fixture
def guide(repository: Path) -> str:
    return (repository / "docs/adding-a-method.md").read_text()


def test_the_example_s_policy_keeps_the_contract(guide: str) -> None:
    found: dict[str, object] = {}
    exec(re.search(r"```python\n(.+?)```", guide, re.S)[1], found)
    matrices = mlp_matrices(24, 10)
    masker = GradientMasker(matrices, found["Taylor"](0.3, seed=0))
    holders = dict.fromkeys(matrix.parameter for matrix in matrices)
    masks = {parameter: masker.masks_at(0).get(parameter) for parameter in holders}
    for matrix in matrices:
        mask, importance = (
            matrix.view(tensor)
            for tensor in (
                masks[matrix.parameter],
                (matrix.parameter.detach() * matrix.parameter.grad).abs(),
            )
        )
        assert int(mask.sum()) == round(0.3 * mask.numel())
        assert importance[mask].min() > importance[~mask].max()


def test_what_the_guide_names_is_there(guide: str, repository: Path) -> None:
    files = set(re.findall(r"`((?:fnsft|tests)/[\w/]+\.py)`", guide))
    assert len(files) > 8
    assert [f for f in files if not (repository / f).exists()] == ["fnsft/masks/policies/taylor.py"]
    for name, file in (
        ("Method", "fnsft/config/stages/training.py"),
        ("FRACTION_METHODS", "fnsft/config/stages/training.py"),
        ("build_policy", "fnsft/training/masking.py"),
        ("LABELS", "fnsft/reporting/labels.py"),
        ("fractional_policies", "tests/matrices.py"),
        ("RUNS", "tests/test_resume.py"),
    ):
        assert name in guide
        assert name in (repository / file).read_text()


@pytest.mark.parametrize("method", FRACTION_METHODS)
def test_no_method_with_a_share_was_forgotten(method: str, repository: Path) -> None:
    assert method in {settings.get("method") for settings in RUNS.values()}, "tests/test_resume.py"
    entries = yaml.safe_load((repository / "config.yaml").read_text())["methods"].values()
    assert method in {entry["method"] for entry in entries}, "config.yaml"
    assert f"| `{method}` |" in (repository / "README.md").read_text()
    sources = [repository / f"fnsft/training/{name}.py" for name in ("masking", "drawn_sets")]
    assert any(f'"{method}"' in source.read_text() for source in sources)


def test_a_policy_has_less_than_sixty_lines(repository: Path) -> None:
    modules = (repository / "fnsft/masks/policies").glob("*.py")
    lengths = {path.name: len(path.read_text().splitlines()) for path in modules}
    assert len(lengths) > 7
    assert all(n < 60 for name, n in lengths.items() if name != "contract.py"), lengths
