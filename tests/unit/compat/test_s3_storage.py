"""What posttrain/compat/s3_storage.py takes for granted of Snakemake's S3 plugin; tests/unit/workflow/test_storage.py tries it."""

import inspect

import pytest

from posttrain.compat import s3_storage

plugin = pytest.importorskip(s3_storage.PLUGIN)


def test_an_object_still_remembers_that_it_is_no_folder():
    """Once this fails, look whether `look_again` can go."""
    assert "if self._is_dir is None:" in inspect.getsource(plugin.StorageObject.is_dir)
    before = getattr(plugin.StorageObject.exists, "before", plugin.StorageObject.exists)
    assert "_is_dir = None" not in inspect.getsource(before)
    assert "self.is_dir()" in inspect.getsource(before)


def test_other_storages_are_left_alone():
    class Provider:
        def get_storage_object_cls(self):
            return dict

    s3_storage.look_again(Provider())
