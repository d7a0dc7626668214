"""One folder to read from, one to write to."""

from pathlib import Path

import pytest

from labkit.core import paths
from labkit.core.errors import UsageError


def test_data_is_found_beside_the_package_in_a_checkout() -> None:
    assert paths.data_path("models", "pylm") == Path(__file__).parents[2] / "data" / "models" / "pylm"


def test_data_is_found_inside_the_package_when_a_wheel_put_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_data").mkdir()
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path)
    assert paths.data_path("models") == tmp_path / "_data" / "models"


def test_home_and_cache_are_created_where_labkit_home_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "deep" / "home"))
    assert paths.cache_folder() == tmp_path / "deep" / "home" / "cache"
    assert paths.cache_folder().is_dir()


def test_home_defaults_to_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.home() == tmp_path / ".local" / "share" / "labkit"


def test_a_home_that_cannot_be_created_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(UsageError, match=r"home' .* cannot be created: Not a directory; set LABKIT_HOME"):
        paths.home()


def test_the_home_of_a_user_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", "~no-such-user/labkit")
    with pytest.raises(UsageError, match=r"folder '~no-such-user/labkit' .* the user's home is not known; set LABK"):
        paths.home()


def test_a_saved_prefix_lies_in_the_cache_folder_under_its_name(tmp_path: Path) -> None:
    assert paths.prefix_path(tmp_path, "faq-2_b") == tmp_path / "prefixes" / "faq-2_b.safetensors"


@pytest.mark.parametrize("name", ["", "../faq", "a/b", "a\\b", "..", "faq.v2", "Faq", "fäq", "faq\n", "x" * 65])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="allowed: 1 to 64 of the characters a to z, 0 to 9, _ and -") as refused:
        paths.prefix_path(tmp_path, name)
    assert "\n" not in str(refused.value)
