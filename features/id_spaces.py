"""ID spaces: one vocabulary and one embedding each, that all features of the space share.

A vocabulary holds the most frequent ids of a space, and its size decides the embedding's width
(paper section 4.1). The sizes are settings of a data set and stand in its ``spec.json``.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from features import command
from features.config import Flag

# What tf.Transform's sketch holds at most. It is exact below its size.
MAX_APPROXIMATE_SIZE = 200_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdSpace:
    """A vocabulary with one embedding that all its features share.

    Attributes:
        name: Name of the space, for example ``video``.
        max_size: Greatest number of ids of the vocabulary, the most frequent ones; the others are
            out of vocabulary. Of ids that are equally frequent the last in the order of their bytes
            come first.
        min_count: Least number of times that an id of the vocabulary was seen.
        approximate: Whether frequencies are estimated by a Misra-Gries sketch of ``max_size``
            counters in place of counting every id there is. Frequent ids are kept, in order; of
            rare ones it may keep others than the most frequent, and in another run others again.
            It cannot apply ``min_count``.
    """

    name: str
    max_size: int = 1_000_000
    min_count: int = 1
    approximate: bool = False


SPACES = (
    IdSpace(name="video"),
    IdSpace(name="channel"),
    IdSpace(name="topic"),
    IdSpace(name="search_token", min_count=2),
    # Small categoricals share one space; their tokens are "feature=value", so they never mix.
    IdSpace(name="category", max_size=100_000),
)


_MaxSize = Annotated[Mapping[str, int], Flag("vocabulary_max_size")]
_MinCount = Annotated[Mapping[str, int], Flag("vocabulary_min_count")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """What somebody asks of some vocabularies; the others keep what is declared.

    Attributes:
        max_size: Largest number of ids of a vocabulary, the most frequent ones, by ID space:
            video=1000000,search_token=200000.
        min_count: Number of times below which an id is out of vocabulary, by ID space:
            search_token=2.
        approximate: ID spaces with so many ids that their frequencies are estimated, in bounded
            memory, and not counted: video,search_token.
    """

    max_size: _MaxSize = dataclasses.field(default_factory=dict)
    min_count: _MinCount = dataclasses.field(default_factory=dict)
    approximate: Annotated[tuple[str, ...], Flag("approximate_vocabularies")] = ()

    def applied(self, spaces: Sequence[IdSpace]) -> tuple[IdSpace, ...]:
        """Returns the spaces with these settings.

        Raises:
            command.InputError: A space that is not there is named, a number is below 1, or an
                approximate vocabulary is asked for more than it can do.
        """
        names = [space.name for space in spaces]
        numbers = {
            "--vocabulary_max_size": self.max_size,
            "--vocabulary_min_count": self.min_count,
            "--approximate_vocabularies": dict.fromkeys(self.approximate, 1),
        }
        for flag, named in numbers.items():
            for name, number in named.items():
                if name not in names:
                    near = difflib.get_close_matches(name, names, n=1)
                    hint = f" Did you mean {near[0]}?" if near else ""
                    raise command.InputError(
                        f"{flag} names {name!r}, but the ID spaces are {', '.join(names)}.{hint}"
                    )
                if number < 1:
                    raise command.InputError(f"{flag}: {name} must be 1 or more, got {number}.")
        return tuple(self._applied(space) for space in spaces)

    def _applied(self, space: IdSpace) -> IdSpace:
        name = space.name
        changed = dataclasses.replace(
            space,
            max_size=self.max_size.get(name, space.max_size),
            min_count=self.min_count.get(name, space.min_count),
            approximate=space.approximate or name in self.approximate,
        )
        if not changed.approximate:
            return changed
        if changed.max_size > MAX_APPROXIMATE_SIZE:
            raise command.InputError(
                f"the approximate vocabulary of {name!r} would have up to {changed.max_size} ids, "
                f"but a sketch holds {MAX_APPROXIMATE_SIZE} at most: give "
                f"--vocabulary_max_size={name}={MAX_APPROXIMATE_SIZE} or less."
            )
        if name in self.min_count:
            raise command.InputError(
                f"--vocabulary_min_count={name}={self.min_count[name]} cannot be applied to an "
                f"approximate vocabulary: its counts are estimates. Cut it by "
                f"--vocabulary_max_size={name}=NUMBER."
            )
        return dataclasses.replace(changed, min_count=1)


def embedding_width(vocabulary_size: int) -> int:
    """Width of a space's embedding, proportional to the logarithm of its size (section 4.1).

    The paper's example, 1 million ids at 32 dimensions, sets the factor.

    Args:
        vocabulary_size: Number of ids, 0 or more.

    Returns:
        Width of the embedding, a multiple of 4, at least 4.
    """
    width = 32 * math.log(max(vocabulary_size, 2)) / math.log(1_000_000)
    return max(4, 4 * math.ceil(width / 4 - 1e-9))
