"""docs/settings.md says what the code says."""

from dataclasses import fields
from pathlib import Path

import pytest

from korder.cli import settings_doc
from korder.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_what_the_table_in_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_doc.page(), "write it anew: make docs"


@pytest.mark.parametrize("item", fields(Settings), ids=lambda item: item.name)
def test_a_setting_says_what_it_does_and_in_which_unit(item) -> None:
    """A bare `5` is five seconds to whoever sets it and five milliseconds to whoever reads it.

    The queue then answers 202 to everybody, or holds every connection for minutes. So each number
    has its unit in the table, or counts things that need none.
    """
    assert item.metadata["doc"].endswith(".")
    assert len(item.metadata["doc"]) > len("iss")
    counts = ("port", "api_processes", "hash_concurrency")
    if isinstance(item.default, int) and item.name not in counts:
        assert item.metadata["unit"]


def test_a_setting_in_no_group_is_an_error_that_names_it(monkeypatch) -> None:
    monkeypatch.setitem(settings_doc.GROUPS, "Data and servers", ("data_dir",))
    with pytest.raises(ValueError, match="valkey_url"):
        settings_doc.page()


def test_no_two_settings_share_a_variable() -> None:
    names = [item.metadata["env"] for item in fields(Settings)]
    assert len(names) == len(set(names))
