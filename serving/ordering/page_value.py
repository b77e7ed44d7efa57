"""What a video on a page is worth: a declared formula of what the ranker says of it.

    watch_time_s + 30*like - 120*hide

Names are ``watch_time_s``, the expected watch time in seconds, and the kinds of feedback, each its
probability. Beside numbers there are ``+ - * /``, brackets, ``min(a, b)``, ``max(a, b)``,
``sqrt(a)`` and ``log1p(a)``. Python's own parser reads it; nothing but this is let through, and
nothing of it is run as Python.

Source: Covington et al., RecSys 2016, section 4: "our final ranking objective is constantly being
tuned based on live A/B testing results but is generally a simple function of expected watch time
per impression".
"""

import ast
import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Mapping

import numpy as np

from features import command, feedback

WATCH_TIME = "watch_time_s"
DEFAULT = WATCH_TIME
NAMES = (WATCH_TIME, *feedback.KINDS)
_MOST_CHARACTERS = 500
# What is no number at any of these, such as like / 0, orders no page.
_TRIED = {name: np.array([0.01, 0.4, 0.9]) + 0.01 * place for place, name in enumerate(NAMES)}
_EXAMPLE = "watch_time_s + 30*like - 120*hide"
_Array = np.ndarray
_OPERATORS: Mapping[type[ast.operator], Callable[[_Array, _Array], _Array]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_FUNCTIONS: Mapping[str, tuple[int, Callable[..., _Array]]] = {
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "sqrt": (1, np.sqrt),
    "log1p": (1, np.log1p),
}


@dataclasses.dataclass(frozen=True)
class PageValue:
    """A formula that was read.

    Attributes:
        text: The formula as it was given.
        names: What it reads, out of :data:`NAMES`.
    """

    text: str
    names: frozenset[str]
    _root: ast.expr

    @property
    def is_default(self) -> bool:
        """Whether it is the expected watch time alone."""
        return self.text.strip() == DEFAULT

    def of(self, said: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the value of each video, float64 [n]; -inf where it is no number.

        Args:
            said: What the ranker says, float [n], by name.

        Example:
            >>> said = {"watch_time_s": np.array([60.0, 40.0]), "like": np.array([0.0, 1.0])}
            >>> parse("watch_time_s + 30*like").of(said).tolist()
            [60.0, 70.0]
        """
        with np.errstate(all="ignore"):
            value = _value(self._root, said)
        count = len(next(iter(said.values())))
        values = np.broadcast_to(np.asarray(value, np.float64), count)
        return np.where(np.isnan(values), -np.inf, values)

    def require(self, heads: Collection[str], *, where: str) -> None:
        """Refuses a ranker that does not say all that is read.

        Args:
            heads: Kinds of feedback that it says.
            where: What it is of, for the message.

        Raises:
            InputError: Names what is missing.
        """
        missing = sorted(self.names - {WATCH_TIME} - set(heads))
        if missing:
            have = ", ".join((WATCH_TIME, *heads))
            raise command.InputError(
                f"page_value {self.text!r} reads {', '.join(missing)}, but the ranker of {where} "
                f"says only {have}. Train it on logs with such feedback, or leave that out."
            )


@functools.lru_cache(maxsize=256)
def parse(text: str) -> PageValue:
    """Reads a formula.

    Raises:
        InputError: It is none; the message says where it goes wrong, and what there is.
    """
    if len(text) > _MOST_CHARACTERS:
        raise _refused(text[:60] + "...", f"it is longer than {_MOST_CHARACTERS} characters")
    try:
        root = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(text, getattr(error, "msg", None) or str(error)) from None
    names: set[str] = set()
    fault = _fault(root, names)
    if fault is None and not names:
        fault = "it reads nothing that the ranker says"
    if fault:
        raise _refused(text, fault)
    formula = PageValue(text, frozenset(names), root)
    if not np.isfinite(formula.of(_TRIED)).any():
        raise _refused(text, "it comes to no finite number")
    return formula


def _refused(text: str, why: str) -> command.InputError:
    return command.InputError(
        f"page_value must be a formula such as {_EXAMPLE!r}, of numbers, + - * / ( ), "
        f"{', '.join(sorted(_FUNCTIONS))} and the names {', '.join(NAMES)}; got {text!r}: {why}."
    )


def _fault(node: ast.expr, names: set[str]) -> str | None:
    """Returns what is no part of a formula; adds the names that are read to ``names``."""
    parts: list[ast.expr] = []
    fault = None
    if isinstance(node, ast.Constant):
        is_number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        if not is_number or not abs(node.value) <= sys.float_info.max:  # type: ignore[arg-type]
            fault = f"{repr(node.value)[:20]} is no number"
    elif isinstance(node, ast.Name):
        names.add(node.id)
        if node.id not in NAMES:
            fault = f"there is no {node.id!r}"
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        parts = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        parts = [node.operand]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        wanted = _FUNCTIONS.get(node.func.id)
        parts = node.args
        if wanted is None:
            fault = f"there is no function {node.func.id!r}"
        elif wanted[0] != len(parts):
            fault = f"{node.func.id} takes {wanted[0]}, got {len(parts)}"
    else:
        fault = f"{ast.unparse(node)!r} is no part of a formula"
    return fault or next(filter(None, (_fault(part, names) for part in parts)), None)


def _value(node: ast.expr, said: Mapping[str, np.ndarray]) -> np.ndarray:
    if isinstance(node, ast.Name):
        return np.asarray(said[node.id], np.float64)
    if isinstance(node, ast.BinOp):
        operator = _OPERATORS[type(node.op)]
        return operator(_value(node.left, said), _value(node.right, said))
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, said)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id][1](*(_value(part, said) for part in node.args))
    return np.asarray(ast.literal_eval(node), np.float64)
