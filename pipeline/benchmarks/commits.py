"""This commit beside another one: the same work by both, in turns, in one run on one machine.

The other commit is checked out in a git worktree of its own, and runs with this environment's
packages.
"""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from features import command
from pipeline.benchmarks import measured_runs

THIS, OTHER = "this", "other"
Trees = Mapping[str, pathlib.Path]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How two commits are compared.

    Attributes:
        trees: :data:`THIS` and :data:`OTHER` to the checkouts.
        rounds: Number of turns of each.
    """

    trees: Trees
    rounds: int

    def in_turns(
        self, figures_of: Callable[[str, pathlib.Path], Mapping[str, float]]
    ) -> dict[str, float]:
        """Measures both, in turns, and returns medians and their ratios.

        Args:
            figures_of: Function of a name and its tree that measures once and returns figures by
                name.

        Returns:
            ``<figure>_this``, ``<figure>_other`` and ``<figure>_ratio``, this over the other, of
            each figure that both have; ``<figure>_lowest_ratio`` and ``<figure>_highest_ratio``
            of single rounds where there are several.
        """
        seen: dict[str, list[Mapping[str, float]]] = {THIS: [], OTHER: []}
        for number in range(self.rounds):
            # What runs first may find a colder machine: each does as often as the other.
            for name in (THIS, OTHER) if number % 2 == 0 else (OTHER, THIS):
                seen[name].append(figures_of(name, self.trees[name]))
        result = {}
        for figure in sorted(set(seen[THIS][0]) & set(seen[OTHER][0])):
            this, other = (np.array([one[figure] for one in seen[n]]) for n in (THIS, OTHER))
            result[f"{figure}_this"] = float(np.median(this))
            result[f"{figure}_other"] = float(np.median(other))
            if (other > 0).all():
                ratios = this / other
                result[f"{figure}_ratio"] = float(np.median(this) / np.median(other))
                if self.rounds > 1:
                    result[f"{figure}_lowest_ratio"] = float(ratios.min())
                    result[f"{figure}_highest_ratio"] = float(ratios.max())
        return result


@contextlib.contextmanager
def beside(ref: str, work: pathlib.Path, *, rounds: int) -> Iterator[Comparison]:
    """Yields a comparison of this checkout and a commit.

    Raises:
        command.InputError: There is no such commit.
    """
    with checked_out(ref, work / OTHER) as other:
        yield Comparison(trees={THIS: measured_runs.CHECKOUT, OTHER: other}, rounds=rounds)


def whole_group(group: str, work: pathlib.Path, comparison: Comparison) -> dict[str, float]:
    """Returns the figures of a group of benchmarks that both commits have.

    Args:
        group: Group, for ``pipeline.bench``, whose flags all commits share.
        work: Directory for what is made meanwhile.
        comparison: The two commits.
    """

    def figures_of(name: str, tree: pathlib.Path) -> dict[str, float]:
        output = work / f"{name}.json"
        output.unlink(missing_ok=True)
        measured_runs.run("pipeline.bench", f"--groups={group}", f"--output={output}", tree=tree)
        return {key: float(value) for key, value in json.loads(output.read_text()).items()}

    return comparison.in_turns(figures_of)


@contextlib.contextmanager
def checked_out(
    ref: str, directory: pathlib.Path, *, checkout: pathlib.Path = measured_runs.CHECKOUT
) -> Iterator[pathlib.Path]:
    """Yields a worktree of a commit, which is removed afterwards.

    Raises:
        command.InputError: ``checkout`` is none, or does not know the commit.
    """
    commit = _git(checkout, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if commit.returncode:
        raise command.InputError(
            f"--against={ref} is no commit that git knows in {checkout}: give a branch, a tag or "
            "a hash of this repository."
        )
    added = _git(checkout, "worktree", "add", "--detach", str(directory), commit.stdout.strip())
    if added.returncode:
        raise command.InputError(f"git cannot check {ref} out: {added.stderr.strip()}")
    try:
        yield directory
    finally:
        _git(checkout, "worktree", "remove", "--force", str(directory))


def _git(checkout: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False
    )
