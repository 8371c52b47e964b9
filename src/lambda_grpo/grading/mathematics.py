r"""Whether two expressions are equal: as math-verify compares them, under conditions, and beyond.

math-verify (0.9) alone says "same" of some that aren't, so it is asked under these conditions:

- numbers have to agree in relation to their size: it rounds to six decimals, where all small numbers are 0;
- an equation of numbers has to hold: it takes 5 = 6 for 6;
- symbols differ in capital and small letters: it takes S_n for s_n.

It says "different" of some that are the same: an equation and its multiple, a column and the list of its entries,
exact numbers that SymPy can't simplify, and roots and logarithms that are equal where their variables are positive, as
exercises on them assume (√a·√b is √(ab), but √(x²) isn't x).
"""

from __future__ import annotations

import random

import sympy
from math_verify import verify
from sympy import Basic, Eq, Expr, MatrixBase, preorder_traversal

RELATIVE = sympy.Float(1e-5)
DIGITS = 30  # with which exact numbers are evaluated
LARGEST = 10**6  # value that is compared by its digits: of larger ones a difference of 1 might be among the last
POINTS = 4  # at which expressions of positive variables are compared


def equal(ours: Basic | MatrixBase, theirs: Basic | MatrixBase) -> bool:
    """Whether they are. May take long, and raises whatever SymPy raises on what makes no sense."""
    if not _holds(ours):
        return False
    if isinstance(ours, sympy.Symbol) and isinstance(theirs, sympy.Symbol):
        return bool(ours.name == theirs.name)
    if isinstance(ours, Eq) and isinstance(theirs, Eq):
        return _same_equations(ours, theirs)
    if verify(theirs, ours, allow_set_relation_comp=True, timeout_seconds=None):
        return _agree_in_size(ours, theirs)
    return _same_entries(ours, theirs) or _same_values(ours, theirs)


def value(expression: Basic | MatrixBase) -> Expr | None:
    """What a number is worth; None of all else, and of what SymPy can't evaluate: it raises many things there."""
    if not (isinstance(expression, Expr) and expression.is_number):
        return None
    try:
        found = expression.doit().evalf()
    except (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError):
        return None
    return found if found.is_number and found.is_finite else None


def _same_values(ours: Basic | MatrixBase, theirs: Basic | MatrixBase) -> bool:
    """Whether exact numbers, or expressions of positive variables with roots or logarithms, are equal."""
    if not (isinstance(ours, Expr) and isinstance(theirs, Expr)) or (ours.is_Atom and theirs.is_Atom):
        return False
    ours, theirs = (_by_name(one) for one in (ours, theirs))
    if ours.has(sympy.Float) or theirs.has(sympy.Float):
        return False
    if not any(has(ours) and has(theirs) for has in (_has_roots, _has_logarithms, _is_complex, _is_number)):
        return False
    symbols = sorted(ours.free_symbols | theirs.free_symbols, key=str)
    if ours.free_symbols != theirs.free_symbols or ours.has(sympy.core.function.AppliedUndef):
        return False
    draw = random.Random(7)
    for _ in range(POINTS if symbols else 1):
        point = {symbol: sympy.Rational(draw.randint(3, 60), draw.choice((7, 11, 13))) for symbol in symbols}
        a, b = (one.doit().evalf(DIGITS, subs=point) for one in (ours, theirs))
        if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
            return False
        if not abs(a).is_comparable or abs(a) > LARGEST:
            return False
        difference = abs(a - b)
        if not difference.is_comparable or difference > sympy.Float(10) ** (8 - DIGITS) * (abs(a) + abs(b)):
            return False
    return True


def _by_name(expression: Expr) -> Expr:
    """With symbols that have no assumptions, i as the imaginary unit, and decimal exponents as fractions."""
    exponents = {node.exp for node in expression.atoms(sympy.Pow) if isinstance(node.exp, sympy.Float)}
    exact = expression.subs({exponent: sympy.Rational(str(exponent)) for exponent in exponents})
    names = {symbol: sympy.I if symbol.name == "i" else sympy.Symbol(symbol.name) for symbol in exact.free_symbols}
    return exact.subs(names)


def _has_roots(expression: Expr) -> bool:
    return any(isinstance(node, sympy.Pow) and node.exp.is_Rational and not node.exp.is_Integer
               for node in preorder_traversal(expression))  # fmt: skip


def _has_logarithms(expression: Expr) -> bool:
    return bool(expression.has(sympy.log))


def _is_complex(expression: Expr) -> bool:
    return bool(expression.has(sympy.I))


def _is_number(expression: Expr) -> bool:
    return bool(expression.is_number)


def _same_entries(ours: Basic | MatrixBase, theirs: Basic | MatrixBase) -> bool:
    """Whether one is a column or row, and the other one lists its entries in order."""
    for vector, listed in ((_vector(ours), theirs), (_vector(theirs), ours)):
        if isinstance(vector, MatrixBase) and 1 in vector.shape and not isinstance(listed, MatrixBase):
            if isinstance(listed, sympy.Interval) and listed.left_open and listed.right_open:
                listed = sympy.Tuple(listed.start, listed.end)
            if isinstance(listed, sympy.Tuple) and len(listed) == len(vector) > 1:
                return all(equal(a, b) for a, b in zip(vector, listed, strict=True))
    return False


def _vector(expression: Basic | MatrixBase) -> Basic | MatrixBase:
    """A sum of multiples of the unit vectors i, j and k as a column; anything else as it is."""
    if not isinstance(expression, Expr) or "j" not in {symbol.name for symbol in expression.free_symbols}:
        return expression
    basis = [symbol for name in "ijk" for symbol in expression.free_symbols if symbol.name == name]
    entries = [expression.doit().expand().coeff(symbol) for symbol in basis]
    rest = expression - sum(entry * symbol for entry, symbol in zip(entries, basis, strict=True))
    return sympy.Matrix(entries) if sympy.expand(rest.doit()) == 0 else expression


def _holds(expression: Basic | MatrixBase) -> bool:
    """Whether the equations of numbers that it has are true."""
    if isinstance(expression, MatrixBase):
        return True
    equations = [node for node in preorder_traversal(expression) if isinstance(node, Eq)]
    return all(_agree(value(one.lhs), value(one.rhs)) for one in equations)


def _same_equations(ours: Eq, theirs: Eq) -> bool:
    """Whether they have the same sides or the same solutions: math-verify says so of all that it can't solve."""
    if ours.lhs == theirs.lhs and isinstance(ours.lhs, (sympy.Symbol, sympy.core.function.AppliedUndef)):
        return equal(ours.rhs, theirs.rhs)
    if _is_multiple(ours, theirs):
        return True
    if not verify(theirs, ours, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    return _agree_in_size(ours, theirs) and (ours == theirs or bool(sympy.solve(theirs)))


def _is_multiple(ours: Eq, theirs: Eq) -> bool:
    """Whether one equation is the other one times a number: 2x = 4 says x = 2."""
    left, right = ours.lhs - ours.rhs, theirs.lhs - theirs.rhs
    if not left.free_symbols or left.free_symbols != right.free_symbols:
        return False
    ratio = sympy.simplify(left / right)
    return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)


def _agree_in_size(ours: Basic | MatrixBase, theirs: Basic | MatrixBase) -> bool:
    """Whether two numbers, perhaps at the right of an equation, differ by little in relation to their size."""
    if isinstance(ours, Eq) and isinstance(theirs, Eq) and ours.lhs != theirs.lhs:
        return True
    return _agree(*(value(one.rhs if isinstance(one, Eq) else one) for one in (ours, theirs)))


def _agree(a: Expr | None, b: Expr | None) -> bool:
    if a is None or b is None:
        return True
    difference, largest = abs(a - b), sympy.Max(abs(a), abs(b))
    return bool(difference <= RELATIVE * largest) if difference.is_comparable and largest.is_comparable else True
