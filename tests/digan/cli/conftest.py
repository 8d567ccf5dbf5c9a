"""The snapshots of the official format that the tests of its reader use, and messages of the page of explore."""

from tests.digan.explore.conftest import message
from tests.digan.official.conftest import converted, dump, genuine, module, names, official_tensors, old_tensor, tree

__all__ = ["converted", "dump", "genuine", "message", "module", "names", "official_tensors", "old_tensor", "tree"]
