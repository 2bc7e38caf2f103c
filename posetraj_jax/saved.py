"""Parameters of a network on disk: all in one folder, or an adapter and the base it stands beside.

Whoever uses a ControlNet reads it through here, and gets whole kernels either way.
"""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from posetraj_jax import sharding, tree, weights
from posetraj_jax.models import adapter


class Saved(NamedTuple):
    """Where the parameters of one network lie."""

    folder: Path
    item: str = weights.PARAMS
    """The tree in the folder."""
    base: Path | None = None
    """The folder of what an adapter stands beside; None where `folder` has everything."""
    rank: int = 0
    """Of the adapter's factors."""

    def paths(self) -> frozenset[str]:
        """The paths of the leaves that `load` can give; raises UserError as `weights` does."""
        trained = weights.stored_paths(self.folder, self.item)
        if self.base is None:
            return trained
        own = frozenset(path for path in trained if adapter.is_own(path))
        return weights.stored_paths(self.base) | own

    def types(self, abstract: tree.Tree) -> tree.Tree:
        """The leaves as they are stored, as ShapeDtypeStructs; float32 where an adapter is merged.

        Raises:
          UserError: as `load`, which this does everything of but the reading.
        """
        if self.base is None:
            return weights.stored_types(self.folder, abstract, self.item)
        weights.stored_types(self.folder, adapter.abstract(abstract, self.rank), self.item)
        weights.stored_types(self.base, adapter.split(abstract)[1])
        return abstract

    def load(self, target: tree.Tree) -> tree.Tree:
        """Reads everything onto its devices; an adapter is merged in float32, then cast.

        Args:
          target: ShapeDtypeStructs of the whole network, with type and sharding.

        Raises:
          UserError: something is missing, unexpected or of another shape, all of it named.
        """
        if self.base is None:
            return weights.load(self.folder, target, self.item)
        own, base = adapter.split(weights.in_type(target, jnp.float32))
        factors = sharding.everywhere(adapter.abstract_factors(base, self.rank), base)
        trained = weights.load(self.folder, tree.merged(own, factors), self.item)
        return adapter.merged(weights.load(self.base, base), trained, target)
